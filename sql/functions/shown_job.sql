-- A job that is in the queue as users see it, made of the row that a statement has just written. The view shown_jobs
-- shows tables as they were when the statement began, so it does not show that row.
create or replace function shown_job(j jobs, the_user_id uuid, the_heartbeat timestamptz)
returns setof shown_jobs language sql stable as $$
  select j.id, the_user_id, j.status, j.created, j.started, j.completed, j.canceled, j.failed,
         j.command, j.arguments, case when j.sealed_environment is null then j.environment end, j.sync,
         j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
         j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
         the_heartbeat, j.num_failures, j.num_heartbeats, j.container_group, j.machine_id, j.attempt,
         j.seq, j.tenant_id, j.id
$$;

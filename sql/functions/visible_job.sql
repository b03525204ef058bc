-- A job that is in the queue as users see it, made of the row that a statement has just written. The view visible_jobs
-- shows tables as they were when the statement began, so it does not show that row. `the_parked` are the reasons for
-- which the job is parked.
create or replace function visible_job(j jobs, the_user_id uuid, the_heartbeat timestamptz, the_parked text[])
returns setof visible_jobs language sql stable as $$
  select j.id, the_user_id, j.status, j.created, j.started, j.completed, j.canceled, j.failed,
         j.command, j.arguments, case when j.sealed_environment is null then j.environment end, j.sync,
         j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
         j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
         the_heartbeat, j.num_failures, j.num_heartbeats, j.container_group, j.machine_id, j.attempt,
         j.seq, j.tenant_id, j.id,
         j.name, j.labels, j.priority, j.sweep_id, j.rerun_of, j.reason, j.options,
         case when the_parked is null then j.status::text else 'parked' end, the_parked,
         null::timestamptz, null::real, null::timestamptz, j.sealed_environment
$$;

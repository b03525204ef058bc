-- The environment of a job may be sealed: then `environment` is empty, and `sealed_environment` holds it, encrypted for the
-- job's id. This release reads both; it writes the latter once `scripts/admin seal` noted (secret_key.seals_since) that no
-- process of the release before is left, which would hand out such a job without its environment.
--
-- The views show null in place of an environment that is sealed, and visible_jobs what is sealed. In a rollback the release
-- before so shows null, and its claims (claim_job) are refused.
--
-- Encrypted text cannot be compressed, so it is not tried, and the mark in front is read without the rest.
--
-- Locks: `jobs`, `secret_key` and the views for a moment. The running release can live beside it.

alter table jobs
  add column sealed_environment bytea,
  alter column sealed_environment set storage external,
  add constraint a_sealed_environment_stands_alone check (sealed_environment is null or environment = '{}') not valid;

alter table secret_key add column seals_since timestamptz;

create or replace view shown_jobs as
select j.id, t.user_id, j.status, j.created, j.started, j.completed, j.canceled, j.failed,
       j.command, j.arguments, case when j.sealed_environment is null then j.environment end as environment, j.sync,
       j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
       j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
       coalesce(q.heartbeat, j.heartbeat) as heartbeat,
       j.num_failures,
       coalesce(q.num_heartbeats, j.num_heartbeats) as num_heartbeats,
       j.container_group as container_group_id,
       j.machine_id, j.attempt,
       j.seq, j.tenant_id, q.job_id as queued
  from jobs j
  join tenants t on t.id = j.tenant_id
  left join queue q on q.job_id = j.id;

create or replace view visible_jobs as
select j.id, t.user_id, j.status, j.created, j.started, j.completed, j.canceled, j.failed,
       j.command, j.arguments, case when j.sealed_environment is null then j.environment end as environment, j.sync,
       j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
       j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
       coalesce(q.heartbeat, j.heartbeat) as heartbeat,
       j.num_failures,
       coalesce(q.num_heartbeats, j.num_heartbeats) as num_heartbeats,
       j.container_group as container_group_id,
       j.machine_id, j.attempt,
       j.seq, j.tenant_id, q.job_id as queued,
       j.name, j.labels, j.priority, j.sweep_id, j.rerun_of, j.reason, j.options,
       coalesce(q.phase, j.status::text) as phase, q.parked, q.backoff_until, q.fraction, q.fraction_at,
       j.sealed_environment
  from jobs j
  join tenants t on t.id = j.tenant_id
  left join job_phases q on q.job_id = j.id;

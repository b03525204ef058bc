-- What users see of a job: its phase, and why it is parked, computed here for every reader.
--
-- job_phases    the jobs in the queue: the phase, and the reasons for which one cannot be claimed, that its group is paused
--               among them.
-- visible_jobs  a job as users see it. shown_jobs stays as it is for the running release, and goes in the next.
-- open_jobs     a job of any priority that was never handed out is pending.
-- active_jobs   what counts for a container group: neither parked jobs nor those that a paused group could claim.
--
-- The indexes that the claim had before go. Statements of the running release that used them (the removal of the pending
-- jobs of a group) read the whole queue for a round until it is gone; its claims are the database's function.
--
-- Locks: the views and `queue` for a moment. The running release can live beside it.

-- Declared for the view; what they say stands in functions/.
create function phase_in_queue(q queue, is_paused boolean) returns text language sql stable as 'select null::text';
create function parked_in_queue(q queue, is_paused boolean) returns text[] language sql stable as 'select null::text[]';

create view job_phases as
select q.job_id, q.tenant_id, q.container_group, q.seq, q.machine_id, q.heartbeat, q.num_heartbeats, q.backoff_until,
       q.fraction, q.fraction_at, q.wish, q.sweep_id,
       phase_in_queue(q, exists (select from paused_groups p
                                  where p.tenant_id = q.tenant_id and p.container_group = lower(q.container_group))) as phase,
       parked_in_queue(q, exists (select from paused_groups p
                                   where p.tenant_id = q.tenant_id and p.container_group = lower(q.container_group))) as parked
  from queue q;

create view visible_jobs as
select j.id, t.user_id, j.status, j.created, j.started, j.completed, j.canceled, j.failed,
       j.command, j.arguments, j.environment, j.sync,
       j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
       j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
       coalesce(q.heartbeat, j.heartbeat) as heartbeat,
       j.num_failures,
       coalesce(q.num_heartbeats, j.num_heartbeats) as num_heartbeats,
       j.container_group as container_group_id,
       j.machine_id, j.attempt,
       j.seq, j.tenant_id, q.job_id as queued,
       j.name, j.labels, j.priority, j.sweep_id, j.rerun_of, j.reason, j.options,
       coalesce(q.phase, j.status::text) as phase, q.parked, q.backoff_until, q.fraction, q.fraction_at
  from jobs j
  join tenants t on t.id = j.tenant_id
  left join job_phases q on q.job_id = j.id;

create or replace view open_jobs as
select tenant_id, container_group,
       case when rank & 1 = 1 then 'pending'::job_status else 'running'::job_status end as status,
       seq, rank, machine_id, job_id
  from queue;

create or replace view active_jobs as
select tenant_id, container_group, job_id, seq, rank & 1 = 1 as pending
  from queue q
 where machine_id is null
   and parked is null
   and not exists (select from paused_groups p
                    where p.tenant_id = q.tenant_id and p.container_group = lower(q.container_group))
 union all
select tenant_id, holder_group, job_id, seq, false
  from queue
 where machine_id is not null;

drop index queue_waiting;
drop index queue_held;
drop index open_jobs_of_a_tenant;
alter index open_jobs_of_a_tenant_by_rank rename to open_jobs_of_a_tenant;

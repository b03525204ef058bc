-- Statements on what jobs wait for.

-- name: keep_sweeps_from_ending
-- Lock sweeps that a submission names against being found ended until the submission is in: it comes before the look whether they
-- have ended.
select id from sweeps where id = any (%(ids)s::uuid[]) order by id for share;

-- name: keep_from_ending
-- Lock jobs that a submission names in the queue, against their end, until the submission is in. A heartbeat is not held up.
select job_id from queue where job_id = any (%(ids)s::uuid[]) order by job_id for key share;

-- name: named_dependencies
-- What a submission may depend on: of these ids the tenant's jobs and sweeps, and how each ended (null: not yet).
select id, false as is_sweep,
       case when status in ('completed', 'failed', 'canceled') then status = 'completed' end as is_completed
  from jobs
 where id = any (%(ids)s::uuid[])
   and tenant_id = %(tenant_id)s
 union all
select s.id, true,
       case when s.ended is not null
            then not exists (select from jobs j where j.sweep_id = s.id and j.status <> 'completed')
                 and not exists (select from incomplete_sweeps i where i.sweep_id = s.id) end
  from sweeps s
 where s.id = any (%(ids)s::uuid[])
   and s.tenant_id = %(tenant_id)s;

-- name: add_dependencies
insert into dependencies (job_id, on_job, on_sweep, needs)
select job_id, on_job, on_sweep, needs
  from jsonb_to_recordset(%(dependencies)s::jsonb) as d (job_id uuid, on_job uuid, on_sweep uuid, needs text);

-- name: take_turn_of_circles
-- Submissions to sweeps whose jobs wait for something come one after the other in a tenant, so that of two which together have two
-- sweeps wait for each other the second one sees it. It comes before the locks of what is named.
select pg_advisory_xact_lock(hashtext('kelpie circles'), hashtext(%(tenant_id)s::text));

-- name: find_circle
-- A job that keeps a sweep from ending and waits for that, if there is one; see functions/circle_of_sweep.sql.
select job_id from circle_of_sweep(%(sweep_id)s, %(most)s) as c (job_id) where job_id is not null;

-- name: take_settling
-- One process at a time settles; the others leave it to that. The rest of the transaction reads by indexes, since what the planner
-- knows of these tables is mostly that they were empty. What it cannot avoid seems so dear then that it would be compiled, which takes
-- longer than a round.
select pg_try_advisory_xact_lock(hashtext('kelpie dependencies')) as ours, set_config('enable_seqscan', 'off', true),
       set_config('jit', 'off', true);

-- name: lock_sweeps_to_end
-- Closed sweeps without an open job. Locked by a statement before the one that ends them, so that this one sees the dependencies
-- of submissions that were under way; one that a submission names at this moment is left for the next time.
select s.id
  from sweeps s
 where s.closed is not null
   and s.ended is null
   and not exists (select from queue q where q.sweep_id = s.id)
 order by s.id
   for update skip locked;

-- name: end_sweeps
-- These sweeps have ended; those that others wait for are noted, and their webhooks are told, once. One that never had a job tells
-- nothing. The webhook is one of the job that ended last.
with found as (
  update sweeps s
     set ended = now()
   where s.id = any (%(ids)s::uuid[])
     and s.ended is null
  returning s.id, s.name, s.webhook
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sweep)
  select last.id, f.webhook,
         (case when n.failed > 0 or exists (select from incomplete_sweeps i where i.sweep_id = f.id) then 'failed'
               when n.completed = n.total then 'completed'
               else 'canceled'
          end)::job_status,
         'sweep_ended', '', '',
         jsonb_build_object('id', f.id, 'name', f.name, 'total', n.total, 'completed', n.completed, 'failed', n.failed,
                            'canceled', n.total - n.completed - n.failed)
    from found f
   cross join lateral (
         select j.id
           from jobs j
          where j.sweep_id = f.id
          order by coalesce(j.completed, j.failed, j.canceled) desc, j.seq desc
          limit 1) last
   cross join lateral (
         select count(*) as total, count(*) filter (where j.status = 'completed') as completed,
                count(*) filter (where j.status = 'failed') as failed
           from jobs j
          where j.sweep_id = f.id) n
   where f.webhook is not null
),
noted as (
  insert into dependency_endings (id, is_completed)
  select f.id,
         not exists (select from jobs j where j.sweep_id = f.id and j.status <> 'completed')
         and not exists (select from incomplete_sweeps i where i.sweep_id = f.id)
    from found f
   where exists (select from dependencies d where d.on_sweep = f.id)
      on conflict do nothing
)
select count(*) as count from found;

-- name: due_dependencies
-- The next dependents of what has ended, `most` at most: is what they need there?
select d.ctid::text as place, d.job_id, coalesce(d.on_job, d.on_sweep) as on_id,
       e.is_completed or d.needs = 'ended' as is_met
  from dependency_endings e
 cross join lateral (
       select ctid, * from dependencies where on_job = e.id
        union all
       select ctid, * from dependencies where on_sweep = e.id) d
 limit %(most)s;

-- name: meet_dependencies
-- Take met dependencies off their jobs; those that wait for nothing more are no longer parked for it. Rows of the queue are
-- locked in the order of changes of many jobs, so that the two do not wait for each other. They are found by their ids as an array,
-- here and where dependents are canceled: joined, all of the queue might be read, where the planner believes that it is empty still.
with met as (
  delete from dependencies where ctid = any (%(places)s::tid[]) returning job_id
),
counted as (
  select job_id, count(*) as met from met group by job_id
),
waiting as materialized (
  select job_id
    from queue
   where job_id = any (array(select job_id from counted))
   order by seq
     for update
)
update queue q
   set waits_for = q.waits_for - (m.met ->> q.job_id::text)::integer,
       parked = case when q.waits_for = (m.met ->> q.job_id::text)::integer
                     then nullif(array_remove(q.parked, 'depends'), '{}')
                     else q.parked
                end
  from (select jsonb_object_agg(job_id, met) as met from counted) m
 where q.job_id = any (array(select job_id from waiting));

-- name: doomed_dependents
-- What cannot begin any more because of these jobs, `unmet`, which are to be canceled: they themselves, each with what it depends on,
-- then their dependents, then those of these, `most` at most. Those that may begin after any end are left to the next round.
with recursive doomed (job_id, on_id) as (
  select key::uuid, value::uuid from jsonb_each_text(%(unmet)s::jsonb)
   union
  select d.job_id, d.on_job
    from doomed u
   cross join lateral (
         select dependencies.job_id, dependencies.on_job
           from dependencies
          where dependencies.on_job = u.job_id
            and dependencies.needs = 'completed'
         offset 0) d
)
select job_id, on_id from doomed limit %(most)s;

-- name: lock_waiting
-- Those of these jobs that wait, locked in the order of changes of many jobs.
select job_id
  from queue
 where job_id = any (%(job_ids)s::uuid[])
   and waits_for > 0
 order by seq
   for update;

-- name: cancel_dependents
-- Cancel jobs whose dependency cannot be met any more. Locked in the order of changes of many jobs.
with waiting as materialized (
  select job_id
    from queue
   where job_id = any (%(job_ids)s::uuid[])
     and waits_for > 0
   order by seq
     for update
),
held as (
  delete from queue where job_id = any (array(select job_id from waiting))
  returning job_id
),
job as (
  update jobs
     set status = 'canceled', canceled = now(), reason = 'depends'
   where id = any (array(select job_id from held))
  returning *
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group)
  select id, webhook, 'canceled', 'canceled', coalesce(machine_id, ''), coalesce(container_group, '')
    from job
   where is_told(webhook, options, 'canceled')
),
forgotten as (
  delete from dependencies where job_id = any (%(job_ids)s::uuid[])
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select id, 'canceled', 'coordinator', attempt,
         jsonb_build_object('reason', 'depends', 'on', %(on)s::jsonb ->> id::text)
    from job
)
select count(*) as count from job;

-- name: forget_settled_endings
delete from dependency_endings e
 where (select true from dependencies d where d.on_job = e.id limit 1) is null
   and (select true from dependencies d where d.on_sweep = e.id limit 1) is null;

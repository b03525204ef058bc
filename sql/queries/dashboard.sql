-- Statements of the pages at /ui. What they show besides they read as the routes do.

-- name: count_phases
-- How many open jobs are in which phase.
select p.phase, count(*) as jobs
  from queue q
  join job_phases p on p.job_id = q.job_id
 where of_tenant(q.tenant_id, %(scope)s)
   and of_group(q.container_group, %(groups)s)
 group by p.phase;

-- name: newest_attempts
-- The newest attempts of a job, the last first, without what they printed.
select a.number, a.machine_id, a.container_group as container_group_id, a.claimed, a.ended, a.outcome, a.exit_code, a.reason,
       a.detail, a.held, a.useful, a.lost
  from attempts a
 where a.job_id = %(job_id)s
 order by a.number desc
 limit %(most)s;

-- name: sum_attempts
-- What the attempts of a job add up to: seconds and money of those that have ended. `unknown`: seconds of which it is not known
-- how much was lost.
select count(*) as attempts, count(*) filter (where outcome = 'interrupted') as interruptions,
       coalesce(sum(held), 0)::float8 as held, coalesce(sum(useful), 0)::float8 as useful, coalesce(sum(lost), 0)::float8 as lost,
       coalesce(sum(held) filter (where lost is null), 0)::float8 as unknown,
       sum(held * price_per_hour / 3600)::float8 as money, now() as at
  from attempts
 where job_id = %(job_id)s;

-- name: list_checkpoint_marks
-- When checkpoints were whole, from an attempt on.
select attempt, at
  from checkpoint_marks
 where job_id = %(job_id)s
   and attempt >= %(attempt)s
 order by attempt, at;

-- name: newest_events
select id, at, kind, actor, attempt
  from events
 where job_id = %(job_id)s
 order by id desc
 limit %(most)s;

-- name: reported_output
-- The end of what an attempt printed, where its worker sent that with the report of its end.
select right(output, %(most)s) as output
  from attempts
 where job_id = %(job_id)s
   and number = %(attempt)s;

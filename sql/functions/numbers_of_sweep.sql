-- What the jobs of a sweep add up to: how many are in which phase (those in the queue by the phase that they have, the others by their
-- status), how many attempts they had, and for how many seconds machines held them so far.
--
-- Guarantee: what is read is of the sweep alone, by its indexes, and the attempts job by job. The phase of
-- a job in the queue is that of all that agree in what decides it, as in the statement count_phases.
--
-- Why a function: see page_of_jobs. Beside 5 million jobs the planner found the phase of every job in the queue, and all attempts there
-- are, to join them with ten thousand.
create or replace function numbers_of_sweep(the_sweep_id uuid)
returns table (phases jsonb, attempts bigint, held double precision) language plpgsql stable rows 1
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
begin
return query
with alike as materialized (
  select min(q.seq) as seq, count(*) as jobs
    from queue q
   where q.sweep_id = the_sweep_id
   group by q.container_group, q.machine_id is null, q.parked is null, q.rank & 1, q.phase, q.heartbeat_interval,
            q.heartbeat + 2 * q.heartbeat_interval * interval '1 second' < now()
),
of_status as materialized (
  select j.status, count(*) as jobs, sum(j.attempt) as attempts, sum(of_job.held) as held
    from jobs j
   cross join lateral (
         select sum(coalesce(a.held, extract(epoch from coalesce(a.ended, now()) - a.claimed))) as held
           from attempts a
          where a.job_id = j.id
            and j.attempt > 0) of_job
   where j.sweep_id = the_sweep_id
   group by j.status
),
of_phase as (
  select p.phase, a.jobs
    from alike a
    join ids_of_numbers(array(select seq from alike)) n on n.seq = a.seq
    join job_phases p on p.job_id = n.job_id
   union all
  select s.status::text, s.jobs
    from of_status s
   where s.status in ('completed', 'failed', 'canceled')
)
select (select coalesce(jsonb_object_agg(c.phase, c.jobs), '{}')
          from (select o.phase, sum(o.jobs)::bigint as jobs from of_phase o group by o.phase) c),
       (select coalesce(sum(s.attempts), 0)::bigint from of_status s),
       (select coalesce(sum(s.held), 0)::double precision from of_status s);
end $$;

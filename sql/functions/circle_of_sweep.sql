-- A job that waits for a sweep and has to end before the sweep can: an open job of the sweep waits for it, or for the sweep that it
-- belongs to, or those wait for it in turn. Null: there is none, or it is not among the first `most` jobs and sweeps that are looked at.
-- Nothing is looked at where no job waits for the sweep.
--
-- Why a function: see page_of_jobs. The planner would read all dependencies anew at each step, and a chain has thousands of steps.
create or replace function circle_of_sweep(the_sweep_id uuid, most integer) returns uuid language plpgsql stable
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
begin
return (
  with recursive awaited (id) as (
    select the_sweep_id
     where exists (select from dependencies where on_sweep = the_sweep_id)
     union
    select n.id
      from awaited a
     cross join lateral (
           select coalesce(d.on_job, d.on_sweep) as id
             from queue q
             join dependencies d on d.job_id = q.job_id
            where q.job_id = a.id
            union all
           select coalesce(d.on_job, d.on_sweep)
             from queue q
             join dependencies d on d.job_id = q.job_id
            where q.sweep_id = a.id
              and q.waits_for > 0) n
  ),
  seen as materialized (
    select id from awaited limit most
  )
  select q.job_id
    from dependencies d
    join queue q on q.job_id = d.job_id
   where d.on_sweep = the_sweep_id
     and (q.job_id in (select id from seen) or q.sweep_id in (select id from seen))
   limit 1);
end $$;

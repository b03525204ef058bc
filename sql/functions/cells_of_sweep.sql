-- The first `most` jobs of a sweep in the order of their submission, each with its phase, or its status once it has ended.
--
-- Guarantee: it reads as many entries of the index of sweeps as it answers jobs, and looks up the phase of each. Why a function, and why
-- the order names two columns: see page_of_jobs.
create or replace function cells_of_sweep(the_sweep_id uuid, most integer)
returns table (id uuid, name text, attempt integer, phase text) language plpgsql stable rows 100
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_incremental_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
begin
return query
select j.id, j.name, j.attempt, coalesce(p.phase, j.status::text)
  from jobs j
  left join lateral (select q.phase from job_phases q where q.job_id = j.id limit 1) p on true
 where j.sweep_id is not null
   and (j.sweep_id, j.seq) between (the_sweep_id, 0) and (the_sweep_id, 9223372036854775807)
 order by j.sweep_id, j.seq
 limit most;
end $$;

-- The ids of jobs by their numbers, in the order of these.
--
-- The order within each lookup, where sorts are ruled out, leaves the planner one index: that of the numbers. By `=` alone the
-- others would do that have the number as their last column, such as jobs_of_a_group, each as a whole. Where the statistics say that there are
-- no jobs, as after the removal of all of them, all look alike to it; a page of 10,000 jobs then took minutes.
create or replace function ids_of_numbers(the_numbers bigint[]) returns table (seq bigint, place bigint, job_id uuid)
language plpgsql stable rows 50
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set jit = off
as $$
#variable_conflict use_column
begin
return query
select n.seq, n.place, j.id
  from unnest(the_numbers) with ordinality as n (seq, place)
 cross join lateral (select id from jobs where jobs.seq between n.seq and n.seq order by jobs.seq limit 1) j;
end $$;

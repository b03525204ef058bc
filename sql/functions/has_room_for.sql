-- Whether a tenant may have so many open jobs, and bytes of them, more; a limit of 0 is none.
--
-- Exact under concurrency: where the limit is near, submissions of a tenant look one after the other, each in a snapshot of its
-- own that has what those before it created. Far from it they do not wait for each other; then it would take a hundred of the
-- largest batches at the same moment to get beyond it. It is volatile for that snapshot, and a function for the
-- reasons that hand_out_job is one.
--
-- Locks: the tenant's advisory lock of submissions, until the transaction ends; what waits for it holds no other.
create or replace function has_room_for(
  the_tenant_id bigint, new_jobs bigint, new_bytes bigint, most_jobs bigint, most_bytes bigint
) returns boolean language plpgsql volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set jit = off
as $$
declare
  near_jobs  constant bigint := 100000;
  near_bytes constant bigint := 100 * 16 * 1024 * 1024;
  the_jobs   bigint;
  the_bytes  bigint;
begin
  if most_jobs = 0 and most_bytes = 0 then
    return true;
  end if;
  select coalesce(sum(jobs), 0) + new_jobs, coalesce(sum(bytes), 0) + new_bytes
    into the_jobs, the_bytes
    from open_job_counts
   where tenant_id = the_tenant_id;
  if (most_jobs = 0 or the_jobs <= most_jobs - near_jobs) and (most_bytes = 0 or the_bytes <= most_bytes - near_bytes) then
    return true;
  end if;
  perform pg_advisory_xact_lock(hashtext('kelpie submissions'), hashtext(the_tenant_id::text));
  select coalesce(sum(jobs), 0) + new_jobs, coalesce(sum(bytes), 0) + new_bytes
    into the_jobs, the_bytes
    from open_job_counts
   where tenant_id = the_tenant_id;
  return (most_jobs = 0 or the_jobs <= most_jobs) and (most_bytes = 0 or the_bytes <= most_bytes);
end $$;

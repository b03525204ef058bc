-- The jobs that submit_batch makes, as users see them, in the order of the submission, and which of its places each one shares
-- (`shared`). A function for the reason that claimed_job is one.
--
-- `work_mem`, which is that of submit_batch too while this calls it, has room for the tables that a batch is made from: with the
-- usual 4 MB each went through a file, a third of what a batch of 1,000 jobs with environments of 4 KiB took.
create or replace function submitted_batch(
  the_tenant_id bigint, the_submitted jsonb, the_sealed bytea[], the_key text, the_digest bytea, the_job_ids uuid[],
  the_actor text, most_jobs bigint, most_bytes bigint, the_user_id uuid
) returns table (job visible_jobs, shared jsonb) language plpgsql
  set plan_cache_mode = force_generic_plan
  set work_mem = '64MB'
as $$
#variable_conflict use_column
begin
return query
select s::visible_jobs, c.shared_places
  from submit_batch(the_tenant_id, the_submitted, the_sealed, the_key, the_digest, the_job_ids, the_actor, most_jobs,
                    most_bytes) c
 cross join lateral visible_job(c.job, the_user_id, (c.job).heartbeat, c.parked_for) s
 order by s.seq;
end $$;

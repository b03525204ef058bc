-- What submitted_batch does, as the release before asks for it (create_jobs).
create or replace function submitted_jobs(
  the_tenant_id bigint, the_submitted jsonb, the_key text, the_digest bytea, the_job_ids uuid[], the_actor text,
  most_jobs bigint, most_bytes bigint, the_user_id uuid
) returns table (job visible_jobs, shared jsonb) language plpgsql
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
return query
select s::visible_jobs, c.shared_places
  from create_jobs(the_tenant_id, the_submitted, the_key, the_digest, the_job_ids, the_actor, most_jobs, most_bytes) c
 cross join lateral visible_job(c.job, the_user_id, (c.job).heartbeat, c.parked_for) s
 order by s.seq;
end $$;

-- What submit_batch does, as the release before asks for it: the sealed environment of each job stands in its object.
create or replace function create_jobs(
  the_tenant_id bigint, the_submitted jsonb, the_key text, the_digest bytea, the_job_ids uuid[], the_actor text,
  most_jobs bigint, most_bytes bigint
) returns table (job jobs, parked_for text[], shared_places jsonb) language sql as $$
  select *
    from submit_batch(
         the_tenant_id, the_submitted,
         array(select (g.job ->> 'sealed_environment')::bytea
                 from jsonb_array_elements(the_submitted) with ordinality as g (job, place)
                order by g.place),
         the_key, the_digest, the_job_ids, the_actor, most_jobs, most_bytes)
$$;

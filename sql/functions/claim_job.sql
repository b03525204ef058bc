-- The claim of the release before, which knows nothing of what a worker speaks, and shows jobs as it knows them; all else is
-- as hand_out_job says.
--
-- Once environments are sealed it is refused, and before that where the next job names secrets: that release would hand a job out without
-- its environment, or without its secrets. To it this is a database that is short of something, which it answers 503 with this text.
create or replace function claim_job(
  the_tenant_id bigint, the_container_group text, the_machine_id text, the_claim_id uuid, the_actor text,
  the_sealed_key bytea, the_lines text[]
) returns setof shown_jobs language plpgsql as $$
declare
  found jobs;
begin
if exists (select from secret_key where seals_since is not null) then
  raise exception 'a release of the coordinator that opens sealed environments' using errcode = '53400';
end if;
for found in
  select *
    from hand_out_job(the_tenant_id, the_container_group, the_machine_id, the_claim_id, the_actor, the_sealed_key, the_lines,
                      null)
loop
  if found.options ? 'secrets' then
    raise exception 'a release of the coordinator that knows the secrets of a job' using errcode = '53400';
  end if;
  return query
  select s.* from tenants t cross join lateral shown_job(found, t.user_id, now()) s where t.id = found.tenant_id;
end loop;
end $$;

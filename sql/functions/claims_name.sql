-- The name under which the claims of a container group are locked and stopped: one for each group of a tenant, however
-- its id is spelled. Ids of groups are callers' text; without the tenant two users' groups could have one name.
create or replace function claims_name(the_tenant_id bigint, the_container_group text) returns text
language sql immutable as $$
  select the_tenant_id || '/' || lower(the_container_group)
$$;

-- Whether a caller may touch a row of this tenant: `scope` is the only tenant whose rows it may (null: all tenants').
create or replace function of_tenant(the_tenant_id bigint, scope bigint) returns boolean language sql immutable as $$
  select scope is null or the_tenant_id = scope
$$;

-- Whether a user is the one of this organization at Salad: made for it on first sight, or by the administrator
-- together with a key of it. Otherwise an organization founded under the user's name would have the user's jobs.
create or replace function is_of_organization(the_user users, the_organization text) returns boolean
language sql stable as $$
  select not the_user.is_admin
     and (the_user.organization is not distinct from the_organization
          or exists (select from tenants t join api_keys k on k.tenant_id = t.id
                      where t.user_id = the_user.id and k.org_name = the_organization))
$$;

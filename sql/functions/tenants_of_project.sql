-- The tenants whose machines can be in the container groups of a project at Salad: those of its organization's users in a
-- project of that name, the one that asks, and the administrator's.
create or replace function tenants_of_project(the_tenant_id bigint, the_organization text, the_project text)
returns setof bigint language sql stable as $$
  select t.id
    from tenants t
    join users u on u.id = t.user_id
   where t.id = the_tenant_id
      or u.is_admin
      or (t.project = the_project and is_of_organization(u, the_organization))
$$;

-- What is known of callers whose credentials somebody else issues: Salad API keys, and the tokens of machines.
--
-- salad_proofs  what Salad vouched for: that a key is good for a project, that a container group is in a project.
--               The question is kept as a keyed digest only, so no key is in here, and the coordinator still knows
--               its callers after a restart while Salad answers nothing. A row matters for a day.
-- jwks          the last good set of the public keys that sign tokens, for the same reason.
-- users.organization  the organization that a user was made for on first sight. A user whom the administrator made is an
--               organization's only if the administrator says so, with a key: else whoever founds an organization of
--               that name at Salad would have the user's jobs.
--
-- Locks: `users` for a moment; the tables are new. The running release can live beside it.

alter table users add column organization text unique;

create function is_of_organization(the_user users, the_organization text) returns boolean
language sql stable as $$
  select not the_user.is_admin
     and (the_user.organization is not distinct from the_organization
          or exists (select from tenants t join api_keys k on k.tenant_id = t.id
                      where t.user_id = the_user.id and k.org_name = the_organization))
$$;

create table salad_proofs (
  digest bytea       primary key check (length(digest) = 32),
  proven timestamptz not null default now()
);

create index salad_proofs_by_age on salad_proofs (proven);

create table jwks (
  url     text        primary key,
  keys    jsonb       not null,
  fetched timestamptz not null default now()
);

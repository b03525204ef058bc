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
--
-- Before its functions moved out its checksum was c5f9dd0f87b81096c9ca167d967e1576187e0b5cdc9891ea12b06c3d1d0992cb

alter table users add column organization text unique;

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

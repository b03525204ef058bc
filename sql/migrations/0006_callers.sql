-- What is known of callers whose credentials somebody else issues: Salad API keys, and the tokens of machines.
--
-- salad_proofs  what Salad vouched for: that a key is good for a project, that a container group is in a project.
--               The question is kept as a keyed digest only, so no key is in here, and the coordinator still knows
--               its callers after a restart while Salad answers nothing. A row matters for a day.
-- jwks          the last good set of the public keys that sign tokens, for the same reason.
--
-- Locks: none that matter, the tables are new. The running release can live beside it.

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

-- What is known of callers whose credentials somebody else issues: Salad API keys, and the tokens of machines.
--
-- salad_proofs  keys that Salad vouched for. A key is kept as a keyed digest over key, organization and project only,
--               so that the coordinator still knows its callers after a restart while Salad answers nothing.
-- jwks          the last good set of the public keys that sign tokens, for the same reason.
-- workloads     whether a container group was found in the project that its machine named.
--
-- Locks: none that matter, the tables are new. The running release can live beside it.

create table salad_proofs (
  digest bytea       primary key check (length(digest) = 32),
  proven timestamptz not null default now()
);

create table jwks (
  url     text        primary key,
  keys    jsonb       not null,
  fetched timestamptz not null default now()
);

create table workloads (
  workload_id text        not null,
  org_name    text        not null,
  project     text        not null,
  checked     timestamptz not null default now(),
  primary key (workload_id, org_name, project)
);

-- Sessions that began with a key of Salad's. Such a key is asked about again while its session lasts, so the session has it, sealed
-- with KELPIE_SECRET_KEY, and both are erased together.
--
-- sessions.key_id                   null where the session began with a key of Salad's.
-- sessions.tenant_id, sealed_key    whose it is then, and the key.
--
-- Locks: `sessions` for a moment; `tenants` against writing for the moment in which the reference to it is made. The running release can
-- live beside it: it finds sessions by their key in api_keys, so it takes a cookie of a session without one for a cookie of none.

alter table sessions
  alter column key_id drop not null,
  add column tenant_id  bigint references tenants on delete cascade,
  add column sealed_key bytea,
  add constraint begun_with_one_key check (
    num_nonnulls(tenant_id, sealed_key) = case when key_id is null then 2 else 0 end);

create index sessions_of_a_tenant on sessions (tenant_id, begun) where tenant_id is not null;

-- Safe submission and waiting for work.
--
-- submissions  what an Idempotency-Key of a tenant created within the last 24 hours.
-- queue        tells listeners when a line has something to claim (channel kelpie_work), so that a waiting claim is
--              answered at once.
--
-- Locks: `queue` for a moment, to add triggers. The running release can live beside it.

create table submissions (
  tenant_id bigint      not null references tenants on delete cascade,
  key       text        not null check (length(key) between 1 and 255),
  digest    bytea       not null,
  job_ids   uuid[]      not null default '{}',
  created   timestamptz not null default now(),
  primary key (tenant_id, key)
);

create index submissions_by_age on submissions (created);

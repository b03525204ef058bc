-- Safe submission and waiting for work.
--
-- submissions  what an Idempotency-Key of a tenant created within the last 24 hours.
-- queue        tells listeners when a line has something to claim (channel kelpie_work), so that a waiting claim is
--              answered at once.
--
-- Locks: `queue` for a moment, to add triggers. The running release can live beside it.
--
-- Before its functions moved out its checksum was 790070e412daa6dcd0b31233fa874cae6b09fc58735029084c04ad802f112ed1

create table submissions (
  tenant_id bigint      not null references tenants on delete cascade,
  key       text        not null check (length(key) between 1 and 255),
  digest    bytea       not null,
  job_ids   uuid[]      not null default '{}',
  created   timestamptz not null default now(),
  primary key (tenant_id, key)
);

create index submissions_by_age on submissions (created);

-- Declared for its trigger; what it does stands in functions/announce_submitted.sql.
create function announce_submitted() returns trigger language plpgsql as 'begin return null; end';

create trigger announce_submitted after insert on queue
  referencing new table as submitted
  for each statement execute function announce_submitted();

-- Declared for its trigger; what it does stands in functions/announce_given_back.sql.
create function announce_given_back() returns trigger language plpgsql as 'begin return null; end';

create trigger announce_given_back after update of machine_id on queue
  for each row when (old.machine_id is not null and new.machine_id is null)
  execute function announce_given_back();

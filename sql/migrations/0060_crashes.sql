-- When Postgres last lost what it had committed, so that no lease lapses because of it.
--
-- A heartbeat without progress is committed without waiting for the disk (functions/renew_lease.sql): a crash of Postgres, or
-- a failover to a standby that was behind, may take the last of them back. `since_crash` is unlogged: after either it is
-- empty, and with a clean stop it keeps its row. The liveness row notes that as `recovered`, and writes the row again.
--
-- Locks: `coordinator`, for a moment. The running release can live beside it; the trigger serves its beats as well.

create unlogged table since_crash (
  only_row boolean primary key default true check (only_row)
);

insert into since_crash default values;

alter table coordinator add column recovered timestamptz;

-- Its body is in functions/note_crash.sql.
create function note_crash() returns trigger language plpgsql as 'begin return new; end';

create trigger note_crash before update on coordinator for each row execute function note_crash();

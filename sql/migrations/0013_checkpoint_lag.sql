-- How far the bucket is behind a running command, as its worker said with the last heartbeat.
--
-- queue.checkpoint_lag  seconds since the oldest change in the directories of `sync.during` that is not whole in the bucket:
--                       what an interruption would cost now. Null where nobody holds the job or its worker does not say.
--                       In no index, so that a heartbeat stays a HOT update.
-- forget_checkpoint_lag whatever ends an attempt or begins another sets machine_id, and the lag of one is not another's.
--                       A heartbeat does not set it, and does not run the trigger.
--
-- Locks: `queue` for a moment, twice. The running release can live beside it: it neither reads nor writes the column, and
-- the trigger keeps it true.
--
-- Before its functions moved out its checksum was e3279363db1c5ce0d9660a02d07cc5d91f88f9f069d5814274c7e04b8301265b

alter table queue
  add column checkpoint_lag integer check (checkpoint_lag >= 0);

-- Declared for its trigger; what it does stands in functions/forget_checkpoint_lag.sql.
create function forget_checkpoint_lag() returns trigger language plpgsql as 'begin return new; end';

create trigger forget_checkpoint_lag
  before update of machine_id on queue
  for each row
  when (old.checkpoint_lag is not null)
  execute function forget_checkpoint_lag();

-- A machine that takes a job and gives it back at once, again and again, waits for it, longer each time: such a loop wrote an
-- attempt, two events and a webhook many times a second, for ever.
--
-- pauses              until when a machine is not handed an open job, and how often in a row it had to wait.
-- queue.looped_until  set while a job is in such a loop, so that a claim looks into pauses only for these.
--
-- Locks: `queue` for a moment, to add a column. The running release can live beside it: its releases pause no machine, and
-- its claims, which are the database's function, obey the pauses.

alter table queue add column looped_until timestamptz;

create table pauses (
  job_id     uuid        not null,
  machine_id text        not null,
  level      integer     not null,
  until      timestamptz not null,
  primary key (job_id, machine_id)
);

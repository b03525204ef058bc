-- Jobs that begin once others have ended.
--
-- dependencies        what a job waits for: one row for each job or sweep that has not ended. `queue.waits_for` counts them.
--                     `needs` says whether it must have completed, or may have ended in any way.
-- dependency_endings  what has ended and has dependents that do not know it yet; settled in rounds after the commit, so
--                     that the end of a job with ten thousand dependents takes no longer than that of any other.
-- sweeps.ended        when a closed sweep was found without an open job.
--
-- Locks: `queue` and `sweeps` for a moment, to add a trigger and a column. The running release can live beside it: what ends by
-- its reports fires the trigger, too.

create table dependencies (
  job_id   uuid not null references jobs on delete cascade,
  on_job   uuid,
  on_sweep uuid,
  needs    text not null check (needs in ('completed', 'ended')),
  constraint on_one_thing check (num_nonnulls(on_job, on_sweep) = 1)
);

create index dependencies_of_a_job on dependencies (job_id);

create index dependencies_on_a_job on dependencies (on_job) where on_job is not null;

create index dependencies_on_a_sweep on dependencies (on_sweep) where on_sweep is not null;

create table dependency_endings (
  id           uuid    primary key,  -- of a job or a sweep
  is_completed boolean not null
);

alter table sweeps add column ended timestamptz;

create index sweeps_to_end on sweeps (closed) where closed is not null and ended is null;

-- Declared for its trigger; what it does stands in functions/.
create function note_endings() returns trigger language plpgsql as 'begin return null; end';

create trigger note_endings after delete on queue
  referencing old table as gone
  for each statement execute function note_endings();

-- Two open jobs whose checkpoints go under one prefix are warned of at submission: each would resume from the other's.
--
-- during_prefixes  where the open jobs of a tenant keep what they upload while they run: `place` is `bucket/prefix/`. A row
--                  is there for as long as the job is in the queue.
--
-- The index has the beginning of a place only, because an entry of an index is limited to 2.7 kB and a place is not. It is in
-- the order of bytes, so that all places within a folder are one range.
--
-- Jobs that were open before, and those that the running release submits meanwhile, have no rows: nothing is said of them.
--
-- Locks: `queue` for a moment, to add triggers. The running release can live beside it: the rows of its jobs go by the
-- triggers, also where it removes all jobs.

create table during_prefixes (
  tenant_id bigint not null,
  job_id    uuid   not null,
  place     text   not null collate "C"
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create index during_prefixes_by_place on during_prefixes (tenant_id, left(place, 600));
create index during_prefixes_of_a_job on during_prefixes (job_id);

-- Declared for their triggers; what they do stands in functions/.
create function forget_open_jobs() returns trigger language plpgsql as 'begin return null; end';
create function forget_all_open_jobs() returns trigger language plpgsql as 'begin return null; end';

create trigger forget_open_jobs after delete on queue
  referencing old table as ended
  for each statement execute function forget_open_jobs();

create trigger forget_all_open_jobs after truncate on queue
  for each statement execute function forget_all_open_jobs();

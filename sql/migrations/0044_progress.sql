-- What commands say of their progress, beside the queue, so that what is large or changes often does not widen its rows.
--
-- progress         the last object of each job that told one (2 KiB at most), and what the coordinator made of it: the fraction
--                  and when it last changed; where the present attempt began, for its rate; from where to where
--                  the last resume went. Its only index is its key and half of each page is free, so an update writes no
--                  index. The object stays in its row: kept apart, each change would write the index of where it is.
-- progress_points  the course of it, for a plot: 500 points of a job at most, for then each second one goes, and the interval
--                  (`point_seconds`) doubles.
--
-- Rows go with those of `jobs`, by triggers: a foreign key would make the running release name these tables when it
-- truncates.
--
-- Locks: `jobs` and `queue` for a moment, to add triggers. The running release can live beside it: none of its heartbeats
-- tells progress or a phase.

create table progress (
  job_id         uuid             not null primary key,
  attempt        integer          not null,
  said           json,
  said_at        timestamptz,
  said_fraction  double precision,
  changed_at     timestamptz,
  output_bytes   bigint,
  first_fraction double precision,
  first_at       timestamptz,
  went_from      double precision,
  went_to        double precision,
  went_in        integer,
  points         integer          not null default 0,
  point_seconds  integer          not null default 5,
  point_number   integer          not null default 0,
  last_point     timestamptz
) with (fillfactor = 50);

alter table progress alter column said set storage main;

create table progress_points (
  job_id   uuid             not null,
  number   integer          not null,
  attempt  integer          not null,
  at       timestamptz      not null,
  fraction double precision,
  step     double precision,
  metrics  json,
  primary key (job_id, number)
);

-- Declared for their triggers; what they do stands in functions/.
create function forget_progress() returns trigger language plpgsql as 'begin return null; end';
create function forget_all_progress() returns trigger language plpgsql as 'begin return null; end';
create function note_stall() returns trigger language plpgsql as 'begin return null; end';

create trigger forget_progress after delete on jobs
  referencing old table as gone
  for each statement execute function forget_progress();

create trigger forget_all_progress after truncate on jobs
  for each statement execute function forget_all_progress();

create trigger note_stall after update of phase on queue
  for each row when (new.phase = 'stalled' and old.phase is distinct from 'stalled') execute function note_stall();

-- When checkpoints of an attempt were whole in the bucket, for the picture of a job: `checkpoints` keeps the newest two manifests
-- only. The marks of an attempt lie at least a two-hundredth of its age at that time apart, so that their number grows with the
-- logarithm of its length.
--
-- Locks: `jobs` against writing for the moment in which the reference to it is made. The running release can live beside it: its
-- reports leave no marks.

create table checkpoint_marks (
  job_id  uuid        not null references jobs on delete cascade,
  attempt integer     not null,
  at      timestamptz not null default now(),
  primary key (job_id, attempt, at)
);

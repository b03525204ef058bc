-- What a worker said is whole in the bucket.
--
-- checkpoints  the manifests of a job's newest generations, two of them, each as its attempt reported it after the commit.
-- events       learns of the first manifest of each attempt, and of how an attempt found the newest one when it
--              resumed; a line for every generation would be a hundred thousand for a job of weeks.
--
-- Locks: `events` for a moment, to exchange a constraint; rows that are there were checked by the one it replaces.
-- The running release can live beside it.

create table checkpoints (
  job_id     uuid        not null references jobs on delete cascade,
  attempt    integer     not null check (attempt > 0),
  generation bigint      not null check (generation > 0),
  reported   timestamptz not null default now(),
  files      jsonb       not null check (jsonb_typeof(files) = 'array'),
  primary key (job_id, attempt, generation)
);

alter table events
   drop constraint events_kind_check,
    add constraint events_kind_check
        check (kind in ('submitted', 'claimed', 'interrupted', 'released', 'attempt_failed', 'completed', 'failed',
                        'canceled', 'blocked', 'checkpointed', 'resumed')) not valid;

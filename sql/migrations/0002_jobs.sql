-- The life of a job.
--
-- jobs      what the user asked for and what became of it; millions of rows of history.
-- queue     one row for each job that is not final, and no other: who holds it, if anybody, and when
--           the holder was last heard. It stays as small as the work in hand, so a claim costs the
--           same beside five finished jobs and beside five million. The row is also the job's lock:
--           every transition takes it first (lock order: queue, jobs, attempts, the rest).
-- attempts  one row for each handout. `attempt` only ever grows and is the fence: whoever reports
--           with an older number is no longer the holder.
-- bans      machines that failed a job and never get it again.
-- events    one row for each change of a job, with its actor. Heartbeats are no events.
--
-- Guarantees kept here and not in Python: the legal moves of a job (job_transitions and the trigger),
-- that nothing changes after a final state, that attempt never goes down, that columns fit states.
--
-- Locks: none that matter, the tables are new. The running release can live beside it.
--
-- Before its functions moved out its checksum was 7d26449b0b01735a247b3ab2da0a95346866568d6a96ef5655aa1c68c9c913bd

create type job_status as enum ('pending', 'running', 'completed', 'failed', 'canceled');

create table job_transitions (
  from_status job_status not null,
  to_status   job_status not null,
  by          text       not null,
  primary key (from_status, to_status)
);

insert into job_transitions values
  ('pending', 'running',   'claim'),
  ('pending', 'completed', 'a report for a job that nobody holds, as the original accepts it'),
  ('pending', 'failed',    'the last failure, reported for a job that nobody holds'),
  ('pending', 'canceled',  'cancel'),
  ('running', 'completed', 'complete'),
  ('running', 'failed',    'the last failure'),
  ('running', 'canceled',  'cancel');

create table jobs (
  id                 uuid        primary key,
  seq                bigint      generated always as identity unique,
  tenant_id          bigint      not null references tenants on delete cascade,
  container_group    text        check (length(container_group) between 1 and 255),
  command            text        not null check (command <> ''),
  arguments          jsonb       not null,
  environment        jsonb       not null,
  sync               jsonb,
  input_bucket       text,
  input_prefix       text,
  checkpoint_bucket  text,
  checkpoint_prefix  text,
  output_bucket      text,
  output_prefix      text,
  compression        boolean     not null,
  max_failures       integer     not null check (max_failures between 1 and 1000),
  heartbeat_interval integer     not null check (heartbeat_interval between 1 and 86400),
  webhook            text        check (webhook <> ''),

  status             job_status  not null default 'pending',
  created            timestamptz not null default now(),
  started            timestamptz,
  completed          timestamptz,
  failed             timestamptz,
  canceled           timestamptz,
  heartbeat          timestamptz,
  num_heartbeats     bigint      not null default 0,
  num_failures       integer     not null default 0,
  machine_id         text,
  attempt            integer     not null default 0,

  constraint files_by_sync_or_by_all_six_legacy_fields check (
    num_nulls(input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix)
    = case when sync is null then 0 else 6 end
  ),
  constraint pending_was_never_handed_out check (status <> 'pending' or (attempt = 0 and started is null)),
  constraint running_was_handed_out check (status <> 'running' or (attempt > 0 and started is not null)),
  constraint completed_has_its_time check ((status = 'completed') = (completed is not null)),
  constraint failed_has_its_time check ((status = 'failed') = (failed is not null)),
  constraint canceled_has_its_time check ((status = 'canceled') = (canceled is not null)),
  constraint failed_has_no_failures_left check (status <> 'failed' or num_failures >= max_failures),
  constraint open_has_failures_left check (status not in ('pending', 'running') or num_failures < max_failures)
) with (fillfactor = 90);

create index jobs_of_a_tenant on jobs (tenant_id, seq);
-- No index names status, machine_id or attempt: a claim changes them, and so it is a HOT update that touches none of
-- the indexes of the history. The rare states are found by their times, open jobs by the queue.
create index failed_jobs_of_a_tenant on jobs (tenant_id, seq) where failed is not null;
create index canceled_jobs_of_a_tenant on jobs (tenant_id, seq) where canceled is not null;
create index jobs_of_a_group on jobs (tenant_id, container_group, seq);

-- Declared for its trigger; what it does stands in functions/guard_job.sql.
create function guard_job() returns trigger language plpgsql as 'begin return new; end';

create trigger guard_job before update on jobs for each row execute function guard_job();

create table queue (
  job_id             uuid        primary key references jobs on delete cascade,
  tenant_id          bigint      not null,
  container_group    text        not null,            -- '' where any group of the tenant may run it
  seq                bigint      not null,
  rank               smallint    not null default 1,  -- 0 once it was handed out: such jobs go first
  heartbeat_interval integer     not null,
  num_heartbeats     bigint      not null default 0,
  attempt            integer     not null default 0,
  machine_id         text        check (length(machine_id) between 1 and 255),
  holder_group       text        check (length(holder_group) between 1 and 255),
  claim_id           uuid,
  heartbeat          timestamptz,

  constraint held_or_waiting check (num_nulls(machine_id, holder_group, heartbeat) in (0, 3)),
  constraint held_by_an_attempt check (machine_id is null or attempt > 0),
  constraint a_claim_id_is_the_holders check (claim_id is null or machine_id is not null)
  -- Free space on every page keeps heartbeats HOT: they change no indexed column. A claim does, and leaves
  -- a dead entry at the head of queue_waiting; housekeeping vacuums far more often than autovacuum wakes.
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_index_cleanup = on, vacuum_truncate = off);

-- Never an index on heartbeat: it would turn every heartbeat into an index write.
create index queue_waiting on queue (tenant_id, container_group, rank, seq) where machine_id is null;
create index queue_held on queue (tenant_id, container_group, seq) where machine_id is not null;
create unique index one_holder_per_claim_id on queue (tenant_id, claim_id) where claim_id is not null;

create type attempt_outcome as enum ('completed', 'failed', 'interrupted', 'released', 'canceled');

create table attempts (
  job_id          uuid            not null references jobs on delete cascade,
  number          integer         not null check (number > 0),
  machine_id      text            not null,
  container_group text            not null,
  claimed         timestamptz     not null default now(),
  last_heartbeat  timestamptz,
  ended           timestamptz,
  outcome         attempt_outcome,
  exit_code       integer,
  reason          text,
  primary key (job_id, number),
  constraint ended_has_an_outcome check ((ended is null) = (outcome is null))
) with (fillfactor = 80);

create table bans (
  job_id     uuid        not null references jobs on delete cascade,
  machine_id text        not null,
  since      timestamptz not null default now(),
  reason     text,
  primary key (job_id, machine_id)
);

create table events (
  id      bigint      generated always as identity primary key,
  job_id  uuid        not null references jobs on delete cascade,
  at      timestamptz not null default now(),
  kind    text        not null check (kind in ('submitted', 'claimed', 'interrupted', 'released',
                                               'attempt_failed', 'completed', 'failed', 'canceled')),
  actor   text        not null,
  attempt integer     not null,
  detail  jsonb       not null default '{}'
);

create index events_of_a_job on events (job_id, id);

-- What users see. While a job is in the queue its heartbeats are counted there.
create view shown_jobs as
select j.id, t.user_id, j.status, j.created, j.started, j.completed, j.canceled, j.failed,
       j.command, j.arguments, j.environment, j.sync,
       j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
       j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
       coalesce(q.heartbeat, j.heartbeat) as heartbeat,
       j.num_failures,
       coalesce(q.num_heartbeats, j.num_heartbeats) as num_heartbeats,
       j.container_group as container_group_id,
       j.machine_id, j.attempt,
       j.seq, j.tenant_id, q.job_id as queued
  from jobs j
  join tenants t on t.id = j.tenant_id
  left join queue q on q.job_id = j.id;

-- Jobs can be parked, steered and limited: what that needs in the tables. docs/design/steering.md has the rules.
--
-- jobs      what a submission may say besides: a name, labels, a priority; `options` are all other optional fields, null where
--           none was given. `reason` says why a job is final or parked.
-- queue     where a job stands: claimable or `parked`; what is wished of its holder (`wish`); what the holder said last (`phase`,
--           `fraction`); which parts of the protocol it `speaks`; and the limits of the job as far as handouts and leases need
--           them, so that neither claims nor heartbeats read `jobs`:
--             ends_from_attempt  from this attempt on a lapse may be the end, so it is maintenance that ends the attempt
--                                (null: never)
--             attempt_seconds    how long one attempt may be held (null: any time)
--             seconds_left       how long all attempts to come may be held together (null: any time)
--             deadline           the end of the time of the present attempt
--             best_fraction      the furthest that the job came, and `best_attempt` in which attempt; `stalls` since then
-- attempts  what the worker of an attempt could be told.
-- checkpoints.bytes   the size of the files of a manifest; null where the release before wrote it.
-- paused_groups       container groups of a tenant, in small letters, whose machines are handed no job.
-- job_labels          the labels of jobs, for filters; the rows of a job go with it, by a trigger.
--
-- A job may fail by a rule or a limit with failures left, so the constraint that held `failed` to `max_failures` is exchanged.
--
-- Locks: `jobs`, `queue`, `attempts`, `checkpoints` and `events` for a moment each, to add columns, constraints that are not
-- checked for the rows that are there, and triggers. The running release can live beside it: it sets none of the columns.

alter table jobs
  add column name     text,
  add column labels   jsonb,
  add column priority smallint not null default 0,
  add column sweep_id uuid,
  add column rerun_of uuid,
  add column reason   text,
  add column options  jsonb,
  add constraint priority_is_in_bounds check (priority between -100 and 100) not valid,
  add constraint name_is_short check (length(name) between 1 and 100) not valid,
  add constraint labels_are_an_object check (jsonb_typeof(labels) = 'object') not valid,
  add constraint options_are_an_object check (jsonb_typeof(options) = 'object') not valid,
  drop constraint failed_has_no_failures_left,
  add constraint failed_has_a_reason check (status <> 'failed' or num_failures >= max_failures or reason is not null) not valid;

alter table queue
  add column parked            text[],
  add column backoff_until     timestamptz,
  add column waits_for         integer not null default 0,
  add column ends_on_lapse     boolean not null default false,
  add column wish              text,
  add column wished_at         timestamptz,
  add column wish_by           text,
  add column phase             text,
  add column fraction          real,
  add column fraction_at       timestamptz,
  add column best_fraction     real,
  add column best_attempt      integer,
  add column stalls            smallint not null default 0,
  add column watched_until     timestamptz,
  add column sweep_id          uuid,
  add column speaks            text[],
  add column ends_from_attempt integer,
  add column attempt_seconds   integer,
  add column seconds_left      integer,
  add column deadline          timestamptz,
  add constraint parked_is_not_held check (parked is null or machine_id is null) not valid,
  add constraint parked_has_reasons check (
    cardinality(parked) > 0 and parked <@ array['hold', 'sweep', 'depends', 'backoff', 'unsealable']) not valid,
  add constraint backoff_has_its_end check ((backoff_until is not null) = coalesce('backoff' = any (parked), false)) not valid,
  add constraint depends_on_something check ((waits_for > 0) = coalesce('depends' = any (parked), false)) not valid,
  add constraint a_wish_is_known check (wish in ('interrupt', 'hold', 'cancel', 'time_limit', 'stalled')) not valid,
  add constraint a_wish_has_its_time_and_actor check (num_nulls(wish, wished_at, wish_by) in (0, 3)) not valid,
  add constraint a_phase_is_known check (phase in ('downloading', 'running', 'uploading', 'stalled')) not valid;

alter table attempts add column speaks text[];

alter table checkpoints add column bytes bigint;

alter table events
  drop constraint events_kind_check,
  add constraint events_kind_check check (kind in (
    'submitted', 'claimed', 'interrupted', 'released', 'attempt_failed', 'completed', 'failed', 'canceled', 'blocked',
    'checkpointed', 'resumed', 'parked', 'unparked', 'asked', 'changed', 'unbanned', 'stalled', 'noted')) not valid;

create table paused_groups (
  tenant_id       bigint      not null references tenants on delete cascade,
  container_group text        not null,
  since           timestamptz not null default now(),
  by              text        not null,
  primary key (tenant_id, container_group)
);

create table job_labels (
  tenant_id bigint not null,
  key       text   not null,
  value     text   not null,
  seq       bigint not null,
  primary key (tenant_id, key, value, seq)
);

-- Declared for their triggers; what they do stands in functions/.
create function end_holding() returns trigger language plpgsql as 'begin return new; end';
create function announce_unparked() returns trigger language plpgsql as 'begin return null; end';
create function forget_labels() returns trigger language plpgsql as 'begin return null; end';
create function forget_all_labels() returns trigger language plpgsql as 'begin return null; end';

create trigger end_holding before update of machine_id on queue
  for each row when (old.machine_id is not null) execute function end_holding();

create trigger announce_unparked after update of parked on queue
  for each row when (old.parked is not null and new.parked is null) execute function announce_unparked();

create trigger forget_labels after delete on jobs
  referencing old table as gone
  for each statement execute function forget_labels();

create trigger forget_all_labels after truncate on jobs
  for each statement execute function forget_all_labels();

drop trigger announce_given_back on queue;
create trigger announce_given_back after update of machine_id on queue
  for each row when (old.machine_id is not null and new.machine_id is null and new.parked is null)
  execute function announce_given_back();

-- Bad machines: who was heard of lately, whom to send away, and which jobs wait for nobody but machines they are banned from.
--
-- machines       every machine that asked for work or reported, by the group it did so for. `counted_bans` are those since
--                its last reallocation was written; counting in one row is what makes two failures at once count as two.
--                Rows are written late and in batches, so no claim and no heartbeat waits for them.
-- reallocations  the outbox of what Salad is to be told: written with the failure that filled the set of bans, carried
--                out afterwards.
-- queue          gets `banned` (some machine failed the job) and `blocked_since` (when that was noticed of all live ones).
--
-- Locks: `queue` and `events` for a moment to change their columns and check; `queue` against writes while a small index
-- is built by reading it once, about a second for a million rows. The check on events is not validated, for all rows
-- there fit the narrower one before it. The running release can live beside it: its failures count nothing here.
--
-- Before its functions moved out its checksum was ea42284528e4e341cfd1ce71f412355b448a3446cad7fefaf17c51008b6a8cc3

create table machines (
  tenant_id       bigint      not null,
  container_group text        not null check (length(container_group) between 1 and 255),
  machine_id      text        not null check (length(machine_id) between 1 and 255),
  last_seen       timestamptz not null default now(),
  bans            integer     not null default 0,
  counted_bans    integer     not null default 0,
  primary key (tenant_id, container_group, machine_id)
  -- No index on last_seen: it would make every row that is seen again an index write.
) with (fillfactor = 70);

create table reallocations (
  id              bigint      generated always as identity primary key,
  tenant_id       bigint      not null references tenants on delete cascade,
  container_group text        not null,
  machine_id      text        not null,
  org_name        text        not null,  -- of the key that reported the last failure; '' is the administrator's
  created         timestamptz not null default now(),
  tries           integer     not null default 0,
  next_try        timestamptz default now(),
  ended           timestamptz,
  outcome         text        check (outcome in ('reallocated', 'gone', 'given_up')),
  last_error      text,
  constraint due_or_ended check (num_nonnulls(next_try, ended) = 1),
  constraint ended_has_an_outcome check ((ended is null) = (outcome is null))
);

create index reallocations_due on reallocations (next_try) where next_try is not null;
create index reallocations_of_a_machine on reallocations (tenant_id, container_group, machine_id, id);

alter table queue
  add column banned        boolean not null default false,
  add column blocked_since timestamptz;

update queue set banned = true where job_id in (select job_id from bans);

create index queue_banned on queue (job_id) where banned;

alter table events drop constraint events_kind_check;
alter table events add constraint events_kind_check check (
  kind in ('submitted', 'claimed', 'interrupted', 'released', 'attempt_failed', 'completed', 'failed', 'canceled',
           'blocked')) not valid;

-- The fleet follows the queue: scaling rules, what the autoscaler decided, and whose turn it is.
--
-- scaling_rules      between which limits a container group is scaled. A group has one rule, whoever made it: two
--                    rules would pull it to and fro.
-- scaling_decisions  one row for each rule and run, also of rules that are gone: what was seen, wanted and done.
-- autoscaler_turn    who runs the autoscaler, on whatever host, and until when unless it says so again.
-- active_jobs        where each job that is not final counts: waiting for its own group, held for its holder's. A
--                    job of the null group that waits counts for none ('').
--
-- Locks: `jobs` against writes while its index is built, about a second for a million rows. The running release can
-- live beside it.

create table scaling_rules (
  container_group_id     uuid        primary key,
  tenant_id              bigint      not null references tenants on delete cascade,
  org_name               text        not null check (length(org_name) between 1 and 255),
  project_name           text        not null check (length(project_name) between 1 and 255),
  container_group_name   text        not null check (length(container_group_name) between 1 and 255),
  min_replicas           integer     not null check (min_replicas between 0 and 500),
  max_replicas           integer     not null check (max_replicas between 0 and 500),
  idle_threshold_seconds integer     not null check (idle_threshold_seconds between 0 and 3600),
  created                timestamptz not null default now(),
  updated                timestamptz not null default now(),
  missing_runs           integer     not null default 0,  -- in a row, in which Salad did not know the group
  constraint min_is_not_above_max check (min_replicas <= max_replicas)
);

create index scaling_rules_of_a_tenant on scaling_rules (tenant_id);

create table scaling_decisions (
  id                 bigint      generated always as identity primary key,
  at                 timestamptz not null default now(),
  tenant_id          bigint      not null references tenants on delete cascade,
  container_group_id uuid        not null,
  active             integer,
  warm               integer,
  observed_state     text,
  observed_replicas  integer,
  desired_replicas   integer,
  action             text        check (action in ('none', 'start', 'scale', 'start_and_scale', 'stop', 'hold',
                                                   'remove_rule')),
  outcome            text        not null check (outcome in ('ok', 'failed')),
  error              text,
  constraint failed_says_why check ((outcome = 'failed') = (error is not null))
);

create index scaling_decisions_of_a_group on scaling_decisions (tenant_id, container_group_id, id);
create index scaling_decisions_by_age on scaling_decisions (at);

create table autoscaler_turn (
  only_row boolean     primary key default true check (only_row),
  owner    uuid        not null,
  until    timestamptz not null
);

-- What finished a moment ago keeps machines warm. No claim and no heartbeat writes to it.
create index finished_jobs_of_a_group on jobs (tenant_id, container_group, coalesce(completed, failed, canceled))
  where coalesce(completed, failed, canceled) is not null;

create view active_jobs as
select tenant_id, container_group, job_id, seq, rank = 1 as pending
  from queue
 where machine_id is null
 union all
select tenant_id, holder_group, job_id, seq, false
  from queue
 where machine_id is not null;

-- What attempts cost: how long each held its job, how much of that was useful, and at which price.
--
-- attempts       `held`, `useful` and `lost` in seconds and the price of the group, written with the end; `useful` and `lost` are
--                null where the worker reports no checkpoints. `tenant_id` is written with them, for the index of the
--                next migration. All are null of an attempt that ended under the release before.
-- group_prices   what an hour of a machine of a container group costs, by the group's id in small letters.
-- usage_of_days  the totals of attempts that ended on a day (UTC); `sweep_id` is the nil UUID for jobs of no sweep. They stay
--                when jobs are pruned.
-- usage_to_add   the ends of the last seconds, which are not in those totals yet. The end of an attempt only inserts, so that ends
--                do not wait for each other; add_up_usage moves them.
--
-- Locks: `attempts` for a moment, to add columns. The running release can live beside it: the trigger that closes its attempts
-- counts them, too.

alter table attempts
  add column tenant_id      bigint,
  add column held           double precision,
  add column useful         double precision,
  add column lost           double precision,
  add column price_per_hour double precision;

create table group_prices (
  tenant_id       bigint           not null references tenants on delete cascade,
  container_group text             not null,
  price_per_hour  double precision not null check (price_per_hour between 0 and 1000000),
  since           timestamptz      not null default now(),
  by              text             not null,
  primary key (tenant_id, container_group)
);

create table usage_of_days (
  tenant_id       bigint           not null references tenants on delete cascade,
  day             date             not null,
  container_group text             not null,
  machine_id      text             not null,
  sweep_id        uuid             not null,
  outcome         attempt_outcome  not null,
  attempts        bigint           not null,
  held            double precision not null,
  useful          double precision,
  lost            double precision,
  money           double precision,
  primary key (tenant_id, day, container_group, machine_id, sweep_id, outcome)
) with (fillfactor = 80);

create index usage_of_a_machine on usage_of_days (tenant_id, container_group, machine_id, day);

create table usage_to_add (
  tenant_id       bigint           not null,
  day             date             not null,
  container_group text             not null,
  machine_id      text             not null,
  sweep_id        uuid             not null,
  outcome         attempt_outcome  not null,
  held            double precision not null,
  useful          double precision,
  lost            double precision,
  money           double precision
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

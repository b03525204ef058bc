-- Jobs that belong together, of which so many may run at a time.
--
-- sweeps        `max_parallel` is how many jobs of it may be unparked (null: all); `closed` since when it takes no more jobs.
--               `key` and `digest` are the Idempotency-Key that made it, and of which body.
-- queue, jobs   the jobs of a sweep are found by an index each.
--
-- Locks: `queue` and `jobs` against writing while their indexes are built over the rows that have a sweep: none yet. The
-- running release can live beside it: it makes no sweep.

create table sweeps (
  id           uuid        primary key,
  seq          bigint      generated always as identity unique,
  tenant_id    bigint      not null references tenants on delete cascade,
  name         text        check (length(name) between 1 and 100),
  labels       jsonb       check (jsonb_typeof(labels) = 'object'),
  max_parallel integer     check (max_parallel between 1 and 1000000),
  created      timestamptz not null default now(),
  created_by   text        not null,
  closed       timestamptz,
  key          text        check (length(key) between 1 and 255),
  digest       bytea,
  constraint a_key_has_a_digest check ((key is null) = (digest is null)),
  unique (tenant_id, key)
);

create index sweeps_of_a_tenant on sweeps (tenant_id, seq);

create index queue_of_a_sweep on queue (sweep_id, rank, seq) where sweep_id is not null;

create index jobs_of_a_sweep on jobs (sweep_id, seq) where sweep_id is not null;

-- Declared for its triggers; what it does stands in functions/.
create function keep_slots() returns trigger language plpgsql as 'begin return new; end';

create trigger keep_slots_of_new_jobs before insert on queue
  for each row when (new.sweep_id is not null)
  execute function keep_slots();

create trigger keep_slots_of_parked_jobs before update on queue
  for each row when (new.sweep_id is not null and old.parked is null and new.parked is not null)
  execute function keep_slots();

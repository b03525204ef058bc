-- The end of what commands print, for jobs that ask for it (`keep_output`), outside the tables of the queue.
--
-- outputs        one row for each attempt that printed: `next`, the offset after all that came, and the bytes that are kept of it.
-- output_pieces  the bytes, by the offset of the first. Small pieces are joined, so that their number is bounded by their size.
-- output_sizes   what came to a tenant's kept output and what went, added up every few seconds, so that pieces of one tenant
--                do not wait for each other.
--
-- Rows go with those of `jobs`, by the triggers of progress.
--
-- Locks: none that anything else waits for. The running release can live beside it: it writes none of this.

create table outputs (
  job_id    uuid    not null,
  attempt   integer not null,
  tenant_id bigint  not null,
  next      bigint  not null default 0,
  kept      bigint  not null default 0,
  ended     timestamptz,
  primary key (job_id, attempt)
) with (fillfactor = 70);

create index ended_outputs on outputs (tenant_id, ended) where ended is not null;

create table output_pieces (
  job_id  uuid    not null,
  attempt integer not null,
  start   bigint  not null,
  content bytea   not null,
  primary key (job_id, attempt, start)
);

create table output_sizes (
  tenant_id bigint not null,
  bytes     bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

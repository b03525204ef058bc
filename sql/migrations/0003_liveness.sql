-- When silence counts: the coordinator's own liveness, its outages, and where no lease can have lapsed.
--
-- While the API or the database is away no heartbeat arrives, and on return every lease would look dead.
-- Web processes keep `coordinator.seen` fresh, and a gap becomes a row of `outages`; what that means for a lease is
-- decided in functions/lapsed.sql and functions/silence_counts_from.sql.
--
-- Locks: none that matter, the tables are new. The running release can live beside it.
--
-- Before its functions moved out its checksum was b102b8a7e3fa725211ccfa6440b6dfadfcbb431292a11b4a22ddb52251bdc8e8

create table coordinator (
  only_row boolean     primary key default true check (only_row),
  seen     timestamptz not null
) with (fillfactor = 10);

insert into coordinator (seen) values (now());

create table outages (
  began timestamptz not null,
  ended timestamptz primary key,
  check (began < ended)
);

-- Where many leases of one queue are held, looking at each of them on every claim would make claims
-- slower with every running job. Housekeeping notes here until when none of them can lapse; a claim
-- skips the look until then. A missing or outdated row costs the look, never a lapse.
create table lapse_horizons (
  tenant_id       bigint      not null,
  container_group text        not null,
  clear_until     timestamptz not null,
  primary key (tenant_id, container_group)
) with (fillfactor = 50);

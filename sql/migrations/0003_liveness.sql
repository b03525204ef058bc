-- When silence counts: the coordinator's own liveness, its outages, and where no lease can have lapsed.
--
-- While the API or the database is away nobody can heartbeat, and on return every lease would look dead.
-- Web processes keep `coordinator.seen` fresh; a gap becomes a row of `outages`, and no lease lapses
-- before its holder had two intervals since the end of an outage that was long enough to matter to it
-- (half an interval: a shorter one cannot use up the two intervals that a lease lasts). While `seen`
-- itself is stale, nobody has written the gap down yet and no lease lapses at all.
--
-- Locks: none that matter, the tables are new. The running release can live beside it.

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

create function silence_counts_from(heartbeat_interval integer) returns timestamptz
language sql stable as $$
  select case
           when seen < now() - greatest(heartbeat_interval / 2.0, 1) * interval '1 second' then timestamptz 'infinity'
           else coalesce((select max(ended) from outages
                           where ended - began >= heartbeat_interval / 2.0 * interval '1 second'),
                         timestamptz '-infinity')
         end
    from coordinator
$$;

-- A lease lapses after two intervals of silence (contract section 3). The cheap comparison comes first: the
-- function is asked only about leases that look dead.
create function lapsed(heartbeat timestamptz, heartbeat_interval integer) returns boolean
language sql stable as $$
  select case when heartbeat + 2 * heartbeat_interval * interval '1 second' >= now() then false
              else silence_counts_from(heartbeat_interval) + 2 * heartbeat_interval * interval '1 second' < now()
         end
$$;

-- Where many leases of one queue are held, looking at each of them on every claim would make claims
-- slower with every running job. Housekeeping notes here until when none of them can lapse; a claim
-- skips the look until then. A missing or outdated row costs the look, never a lapse.
create table lapse_horizons (
  tenant_id       bigint      not null,
  container_group text        not null,
  clear_until     timestamptz not null,
  primary key (tenant_id, container_group)
) with (fillfactor = 50);

-- Since when silence counts against a lease of this interval (seconds).
--
-- While the API or the database is away no heartbeat arrives, and on return every lease would look dead. So no lease
-- lapses before its holder had two intervals since the end of an outage that was long enough to matter to it: half an
-- interval, a shorter one cannot use up the two intervals that a lease lasts. While `coordinator.seen` itself is
-- stale, the gap is not written down yet and no lease lapses at all.
--
-- A crash of Postgres matters to every lease, however short it was: the last heartbeat may have been lost with it, and the one
-- before is an interval older. Until it is noted no lease lapses at all.
create or replace function silence_counts_from(heartbeat_interval integer) returns timestamptz
language sql stable as $$
  select case
           when seen < now() - greatest(heartbeat_interval / 2.0, 1) * interval '1 second' then timestamptz 'infinity'
           when has_crashed() then timestamptz 'infinity'
           else greatest(coalesce((select max(ended) from outages
                                    where ended - began >= heartbeat_interval / 2.0 * interval '1 second'),
                                  timestamptz '-infinity'),
                         recovered)
         end
    from coordinator
$$;

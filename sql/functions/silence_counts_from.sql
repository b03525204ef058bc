-- Since when silence counts against a lease of this interval (seconds).
--
-- While the API or the database is away no heartbeat arrives, and on return every lease would look dead. So no lease
-- lapses before its holder had two intervals since the end of an outage that was long enough to matter to it: half an
-- interval, a shorter one cannot use up the two intervals that a lease lasts. While `coordinator.seen` itself is
-- stale, the gap is not written down yet and no lease lapses at all.
create or replace function silence_counts_from(heartbeat_interval integer) returns timestamptz
language sql stable as $$
  select case
           when seen < now() - greatest(heartbeat_interval / 2.0, 1) * interval '1 second' then timestamptz 'infinity'
           else coalesce((select max(ended) from outages
                           where ended - began >= heartbeat_interval / 2.0 * interval '1 second'),
                         timestamptz '-infinity')
         end
    from coordinator
$$;

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

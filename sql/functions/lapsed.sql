-- Whether a lease lapsed: after two intervals of silence (docs/design/protocol.md, Lease). The cheap comparison comes
-- first: silence_counts_from reads two tables and is asked only about leases that look dead.
create or replace function lapsed(heartbeat timestamptz, heartbeat_interval integer) returns boolean
language sql stable as $$
  select case when heartbeat + 2 * heartbeat_interval * interval '1 second' >= now() then false
              else silence_counts_from(heartbeat_interval) + 2 * heartbeat_interval * interval '1 second' < now()
         end
$$;

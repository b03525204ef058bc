-- Statements of the coordinator about itself.

-- name: be_seen
-- Keep the coordinator's liveness fresh; write down a gap of over a second as an outage. One process at a time
-- does it, the others find the row fresh.
with gap as (
  select seen from coordinator where seen < now() - interval '0.4 seconds' for update skip locked
),
outage as (
  insert into outages (began, ended)
  select seen, now() from gap where seen < now() - interval '1 second'
      on conflict (ended) do nothing
  returning began, ended
),
fresh as (
  update coordinator set seen = now() from gap
)
select began, ended from outage;

-- name: forget_outages
-- Two intervals after its end an outage matters to no lease; the longest interval is a day.
delete from outages where ended < now() - interval '2 days' - interval '1 hour';

-- name: forget_submissions
-- After a day a key is new again, whether its row is still there or not; the hour keeps the two apart.
delete from submissions where created < now() - interval '25 hours';

-- name: note_lapse_horizons
-- For each line in which many leases are held: until when none of them can lapse. A lease that this statement does
-- not see yet was claimed after it began, so it lasts for two seconds at the least; half a second of that
-- is left for its commit. One process at a time does it.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie lapse horizons')) as ours
),
leases as materialized (
  select tenant_id, container_group, heartbeat_interval, min(heartbeat) as heartbeat, count(*) as held
    from queue
   where machine_id is not null
     and (select ours from turn)
   group by tenant_id, container_group, heartbeat_interval
)
insert into lapse_horizons (tenant_id, container_group, clear_until)
select tenant_id, container_group,
       least(min(greatest(heartbeat, silence_counts_from(heartbeat_interval))
                 + 2 * heartbeat_interval * interval '1 second'),
             now() + interval '1.5 seconds')
  from leases
 group by tenant_id, container_group
having sum(held) >= 10
    on conflict (tenant_id, container_group) do update set clear_until = excluded.clear_until;

-- name: count_dead_queue_rows
select n_dead_tup from pg_stat_user_tables where relid = 'queue'::regclass;

-- name: vacuum_queue
-- Outside a transaction. A plain VACUUM may skip the indexes, and it is there that the dead entries slow the claim.
vacuum (index_cleanup on, truncate off, skip_locked) queue;

-- name: purge_jobs
-- All jobs of everybody; the tables are named in lock order.
truncate queue, jobs, attempts, checkpoints, bans, events, webhooks, deliveries, submissions, lapse_horizons, machines,
  reallocations;

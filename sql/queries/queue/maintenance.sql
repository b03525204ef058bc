-- What keeps the queue right and quick while the coordinator runs, and removes what is old.

-- Maintenance.

-- name: be_seen
-- Keep the coordinator's liveness fresh; write down a gap of over a second as an outage. One process at a time
-- does it, the others find the row fresh. A row where there was such a gap, or where Postgres `has_recovered` (note_crash).
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
  returning coalesce(recovered = now(), false) as has_recovered
)
select began, ended, has_recovered
  from fresh
  left join outage on true
 where ended is not null
    or has_recovered;

-- name: forget_outages
-- Two intervals after its end an outage matters to no lease; the longest interval is a day.
delete from outages where ended < now() - interval '2 days' - interval '1 hour';

-- name: forget_submissions
-- After a day a key is new again, whether its row is still there or not; the hour keeps the two apart.
delete from submissions where created < now() - interval '25 hours';

-- name: settle_open_job_counts
-- Add up the rows of tenants that have many, and remove those of tenants without open jobs. Rows that come meanwhile are left
-- to the next time. One process at a time does it.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie open job counts')) as ours
),
many as materialized (
  select tenant_id
    from open_job_counts
   where (select ours from turn)
   group by tenant_id
  having count(*) > 100 or (sum(jobs) = 0 and sum(bytes) = 0)
),
settled as (
  delete from open_job_counts where tenant_id in (select tenant_id from many)
  returning tenant_id, jobs, bytes
)
insert into open_job_counts (tenant_id, jobs, bytes)
select tenant_id, sum(jobs), sum(bytes)
  from settled
 group by tenant_id
having sum(jobs) <> 0 or sum(bytes) <> 0;

-- name: trim_outputs
select trim_outputs(%(most)s) as removed;

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
-- And whether this role may vacuum them away: from Postgres 17 on it can be granted, before that only the owner may.
select n_dead_tup,
       case when current_setting('server_version_num')::integer >= 170000
            then has_table_privilege(relid, 'maintain')
            else pg_has_role((select relowner from pg_class where oid = relid), 'usage')
       end as may_vacuum
  from pg_stat_user_tables
 where relid = 'queue'::regclass;

-- name: vacuum_queue
-- Outside a transaction. A plain VACUUM may skip the indexes, and it is there that the dead entries slow the claim.
vacuum (index_cleanup on, truncate off, skip_locked) queue;

-- Retention.

-- name: prune_jobs
-- Look at the next `batch` jobs in the order of their numbers, and remove those that finished longer ago than `kept_for`, with
-- all that belongs to them; a job is removed whole or not at all. Never one that is in the queue, nor one with a
-- webhook that is still to be delivered. Of a sweep it is kept that a job which did not complete is gone. `reached` is the
-- number to go on after; null: nothing is left to look at, for
-- what comes is younger than that. One caller at a time does it; the others get `taken`. Where `really` is false,
-- only the count is made.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie prune')) as ours
),
looked_at as materialized (
  select id, seq, created, coalesce(completed, failed, canceled) as finished,
         case when status <> 'completed' then sweep_id end as incomplete_sweep
    from jobs
   where seq > %(after)s
     and (select ours from turn)
   order by seq
   limit %(batch)s
),
expired as materialized (
  select l.id, l.incomplete_sweep
    from looked_at l
   where l.finished < now() - %(kept_for)s::interval
     and not exists (select from queue q where q.job_id = l.id)
     and not exists (select from webhooks w where w.job_id = l.id and num_nonnulls(w.next_try) = 1)
),
noted as (
  insert into incomplete_sweeps (sweep_id)
  select distinct incomplete_sweep from expired where incomplete_sweep is not null and %(really)s::boolean
      on conflict do nothing
),
removed as (
  delete from jobs using expired where jobs.id = expired.id and %(really)s::boolean
)
select not (select ours from turn) as taken,
       (select max(seq) from looked_at having min(created) < now() - %(kept_for)s::interval) as reached,
       (select count(*) from expired) as expired;

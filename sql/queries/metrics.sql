-- Statements for monitoring, over all tenants.

-- name: measure_queue
-- How much there is to do, and how long it has waited. One pass over the queue and one over the unfinished webhooks,
-- neither of which grows with history. A job joins the queue's end, so the smallest number is the oldest job. Silent leases of one
-- interval have lapsed all or none.
with alike as materialized (
  select heartbeat_interval, min(heartbeat) as heartbeat,
         machine_id is not null and heartbeat + 2 * heartbeat_interval * interval '1 second' < now() as is_silent,
         count(*) filter (where machine_id is null and parked is null and rank & 1 = 1) as pending,
         min(seq) filter (where machine_id is null and parked is null and rank & 1 = 1) as oldest_pending,
         count(*) filter (where machine_id is not null) as running,
         count(*) filter (where machine_id is null and parked is null and rank & 1 = 0) as waiting,
         count(*) filter (where parked is not null) as parked
    from queue
   group by heartbeat_interval, is_silent
),
waiting as materialized (
  select coalesce(sum(pending), 0)::bigint as pending, min(oldest_pending) as oldest_pending,
         coalesce(sum(running), 0)::bigint as running, coalesce(sum(waiting), 0)::bigint as waiting,
         coalesce(sum(parked), 0)::bigint as parked,
         coalesce(sum(running) filter (where is_silent and lapsed(heartbeat, heartbeat_interval)), 0)::bigint as lapsed_leases
    from alike
),
outbox as materialized (
  select count(*) as unfinished, min(next_try) as oldest from webhooks where next_try is not null
)
select w.pending, w.running, w.waiting, w.parked, w.lapsed_leases,
       coalesce((select greatest(extract(epoch from now() - j.created), 0)::float8
                   from jobs j where j.seq = w.oldest_pending), 0) as oldest_pending_seconds,
       o.unfinished as webhooks_unfinished,
       coalesce(greatest(extract(epoch from now() - o.oldest), 0)::float8, 0) as webhooks_oldest_due_seconds
  from waiting w, outbox o;

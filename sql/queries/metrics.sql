-- Statements for monitoring, over all tenants.

-- name: measure_queue
-- How much there is to do, and how long it has waited. One pass over the queue and one over the unfinished webhooks,
-- neither of which grows with history. A job joins the queue's end, so the smallest number is the oldest job.
with waiting as materialized (
  select count(*) filter (where machine_id is null and parked is null and rank & 1 = 1) as pending,
         min(seq) filter (where machine_id is null and parked is null and rank & 1 = 1) as oldest_pending,
         count(*) filter (where machine_id is not null) as running,
         count(*) filter (where machine_id is null and parked is null and rank & 1 = 0) as waiting,
         count(*) filter (where parked is not null) as parked,
         count(*) filter (where machine_id is not null and lapsed(heartbeat, heartbeat_interval)) as lapsed_leases
    from queue
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

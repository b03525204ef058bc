-- Statements that remove history.

-- name: prune_jobs
-- Look at the next `batch` jobs in the order of their numbers, and remove those that finished longer ago than `kept_for`, with
-- all that belongs to them; a job is removed whole or not at all. Never one that is in the queue, nor one with a
-- webhook that is still to be delivered. `reached` is the number to go on after; null: nothing is left to look at, for
-- what comes is younger than that. One caller at a time does it; the others get `taken`. Where `really` is false,
-- only the count is made.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie prune')) as ours
),
looked_at as materialized (
  select id, seq, created, coalesce(completed, failed, canceled) as finished
    from jobs
   where seq > %(after)s
     and (select ours from turn)
   order by seq
   limit %(batch)s
),
expired as materialized (
  select l.id
    from looked_at l
   where l.finished < now() - %(kept_for)s::interval
     and not exists (select from queue q where q.job_id = l.id)
     and not exists (select from webhooks w where w.job_id = l.id and w.next_try is not null)
),
removed as (
  delete from jobs using expired where jobs.id = expired.id and %(really)s::boolean
)
select not (select ours from turn) as taken,
       (select max(seq) from looked_at having min(created) < now() - %(kept_for)s::interval) as reached,
       (select count(*) from expired) as expired;

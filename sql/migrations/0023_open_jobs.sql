-- Pending and running jobs are listed from an index of the queue.
--
-- open_jobs  jobs that are not final, for listings: pending until the first handout, running from then on.
--
-- The index has an expression where `rank` would do, so that only a listing can use it. The claim orders by `rank` and `seq`
-- too, and could be planned on an index that does not know its container group. Neither column is changed by a heartbeat; a
-- claim writes one index entry more.
--
-- Locks: `queue` against writing while the index is built, about a second for a million rows. The running release can
-- live beside it.

create view open_jobs as
select tenant_id, container_group, case when rank = 1 then 'pending'::job_status else 'running'::job_status end as status,
       seq, rank, machine_id
  from queue;

create index open_jobs_of_a_tenant on queue (
  tenant_id,
  (case when rank = 1 then 'pending'::job_status else 'running'::job_status end),
  seq
);

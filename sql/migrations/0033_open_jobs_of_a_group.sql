-- Listings find the pending and the running jobs of a group in one index, parked ones included.
--
-- Locks: `queue` against writing while the index is built, about a second for a million rows. The running release can live
-- beside it.

create index open_jobs_of_a_group on queue (
  tenant_id,
  container_group,
  (case when rank & 1 = 1 then 'pending'::job_status else 'running'::job_status end),
  seq
);

-- The same for all groups of a tenant: a job of any priority that was never handed out is pending. The next step gives the
-- index the name of the one in whose place it comes.
--
-- Locks: `queue` against writing while the index is built, about a second for a million rows. The running release can live
-- beside it.

create index open_jobs_of_a_tenant_by_rank on queue (
  tenant_id,
  (case when rank & 1 = 1 then 'pending'::job_status else 'running'::job_status end),
  seq
);

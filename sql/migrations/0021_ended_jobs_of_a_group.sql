-- The same for the jobs of one container group; '' is the null group, as in the queue.
--
-- Locks: `jobs` against writing while the index is built, about a second for a million rows. The running release can
-- live beside it.

create index ended_jobs_of_a_group on jobs (
  tenant_id,
  coalesce(container_group, ''),
  (case when completed is not null then 'completed'::job_status
        when failed is not null then 'failed'::job_status
        else 'canceled'::job_status
   end),
  seq
) where coalesce(completed, failed, canceled) is not null;

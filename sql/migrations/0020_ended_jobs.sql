-- Finished jobs are listed from an index, whatever their status.
--
-- ended_jobs  jobs that are final, for listings. Their status is derived from the time of their end: an index that named the
--             column `status`, which a claim changes, would make each claim an index write in all indexes of the history.
--
-- A listing of completed jobs used to walk over all jobs of the tenant, and one of a group's failed jobs over all that
-- failed. The new index is written once, when a job ends. Those of failed and canceled jobs are no longer needed.
--
-- Locks: `jobs` against writing while the index is built, about a second for a million rows. The running release can
-- live beside it; until it is replaced it lists failed and canceled jobs by walking over all jobs of the tenant.

create view ended_jobs as
select tenant_id, coalesce(container_group, '') as container_group,
       case when completed is not null then 'completed'::job_status
            when failed is not null then 'failed'::job_status
            else 'canceled'::job_status
       end as status,
       seq
  from jobs
 where coalesce(completed, failed, canceled) is not null;

create index ended_jobs_of_a_tenant on jobs (
  tenant_id,
  (case when completed is not null then 'completed'::job_status
        when failed is not null then 'failed'::job_status
        else 'canceled'::job_status
   end),
  seq
) where coalesce(completed, failed, canceled) is not null;

drop index failed_jobs_of_a_tenant;
drop index canceled_jobs_of_a_tenant;

-- Statements of the pages at /ui. What they show besides they read as the routes do.

-- name: count_phases
-- How many open jobs are in which phase.
select p.phase, count(*) as jobs
  from queue q
  join job_phases p on p.job_id = q.job_id
 where of_tenant(q.tenant_id, %(scope)s)
   and of_group(q.container_group, %(groups)s)
 group by p.phase;

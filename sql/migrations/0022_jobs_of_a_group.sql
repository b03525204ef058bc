-- The index of a container group's jobs has '' for the null group, so that one condition finds the jobs of any group.
--
-- Locks: `jobs` against writing while the index is built, about a second for a million rows. The running release can
-- live beside it; until it is replaced it lists a group's jobs by walking over all jobs of the tenant.

drop index jobs_of_a_group;

create index jobs_of_a_group on jobs (tenant_id, coalesce(container_group, ''), seq);

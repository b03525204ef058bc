-- The attempts of a tenant by the time of their end, for usage by names and labels of jobs.
--
-- Locks: `attempts` against writing while the index is built over the attempts with a tenant_id: those that ended since the
-- migration before, so it takes as long as the table takes to be read once. The running release can live beside it.

create index ended_attempts on attempts (tenant_id, ended) where tenant_id is not null;

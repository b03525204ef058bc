-- Parked jobs of all groups of a tenant are found in the order of listings.
--
-- Locks: `queue` against writing while it is read, a moment for a million rows. The running release can live beside it.

create index parked_jobs_of_a_tenant on queue (tenant_id, seq) where parked is not null;

-- The jobs of a tenant that failed, by when they did: how many need a look since yesterday is counted in this index alone, however
-- long the history is.
--
-- Locks: `jobs` against writing while it is read, some seconds for ten million rows. The running release can live beside it. A job is
-- written into the index once, when it fails for good.

create index failed_jobs on jobs (tenant_id, failed) where failed is not null;

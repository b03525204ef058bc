-- Parked jobs of a line are found, and those whose pause is over, without a look at the others.
--
-- Locks: `queue` against writing while it is read, a moment for a million rows. The running release can live beside it.

create index queue_parked on queue (tenant_id, container_group, seq) where parked is not null;

create index queue_backoff on queue (backoff_until) where backoff_until is not null;

-- Lapsed jobs are claimed in the order of their priorities, like all others.
--
-- Locks: `queue` against writing while the index is built, about a second for a million held rows. The running release goes
-- on with queue_held, which a later step drops.

create index queue_leased on queue (tenant_id, container_group, rank, seq) where machine_id is not null;

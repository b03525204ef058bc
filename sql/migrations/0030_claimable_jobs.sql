-- Claims look among the jobs that can be claimed, not among all without a holder: a million parked ones cost them nothing.
--
-- Locks: `queue` against writing while the index is built, about a second for a million rows. The running release goes on
-- with queue_waiting, which a later step drops.

create index queue_claimable on queue (tenant_id, container_group, rank, seq) where machine_id is null and parked is null;

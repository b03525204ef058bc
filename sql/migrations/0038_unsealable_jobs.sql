-- Jobs that wait for the key of their environment are found without a look at those that are parked for other reasons.
--
-- Locks: `queue` against writing while it is read, a moment for a million rows. The running release can live beside it.

create index queue_unsealable on queue (seq) where 'unsealable' = any (parked);

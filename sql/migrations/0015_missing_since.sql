-- Since when Salad does not know a rule's container group.
--
-- scaling_rules.missing_since  the first of its `missing_runs`; null while the group is known. Runs alone say little: some that
--                              follow each other within a minute see one and the same mistake of Salad's.
--
-- Locks: `scaling_rules` for a moment. The running release can live beside it: what it counts gets its moment with
-- the next run of this one.

alter table scaling_rules
  add column missing_since timestamptz;

-- How many instances of a group ran, and how many Salad was looking for or preparing, when a decision was made: what a person asks
-- who waits for a machine. Null where Salad did not say it, and of decisions of the release before.
--
-- Locks: `scaling_decisions` for a moment, to add columns. The running release can live beside it.

alter table scaling_decisions
  add column observed_running integer,
  add column observed_allocating integer;

-- Which sweeps had jobs that did not complete and are removed with their history. A sweep counts as completed if all of its jobs did; those
-- that are removed before that is asked must not pass for completed ones.
--
-- No foreign key leads to `sweeps`: the release before truncates that table by name. The rows go with their sweeps, in the statement
-- that prunes these.
--
-- Locks: nothing that is used. The running release can live beside it; it notes none.

create table incomplete_sweeps (
  sweep_id uuid primary key
);

-- Why an attempt ended, in the words of its worker: `reason` is one of a few classes, and the machine with the log is gone.
--
-- attempts.detail  of an attempt that failed or was released, secrets masked by the worker; null where nothing was said.
--
-- Locks: `attempts` for a moment. The constraint is not checked against the rows that are there: they have none.
-- The running release can live beside it.

alter table attempts
  add column detail text,
  add constraint detail_is_short check (length(detail) <= 1000) not valid;

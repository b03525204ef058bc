-- The last of what a command printed, where its worker was asked to report it.
--
-- attempts.output  of an attempt that completed or failed, secrets masked by the worker; null for all others.
--
-- Locks: `attempts` for a moment. The constraint is not checked against the rows that are there: they have none.
-- The running release can live beside it.

alter table attempts
  add column output text,
  add constraint output_is_short check (length(output) <= 65536) not valid;

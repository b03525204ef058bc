-- When the last piece of an attempt's output came: it shows that the machine lived, as a heartbeat and a checkpoint do, so it counts
-- towards the time for which an interrupted attempt held its job. Null of an attempt whose pieces came under the release before.
--
-- Locks: `outputs` for a moment, to add a column. The running release can live beside it.

alter table outputs add column last_at timestamptz;

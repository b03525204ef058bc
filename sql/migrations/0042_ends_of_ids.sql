-- A job is found by the end of its id, six digits or more: ids of one batch begin alike, so people read the end.
--
-- Locks: `jobs` against writing while the index is built, some ten seconds for ten million rows. The running release can live
-- beside it: a submission writes one entry more, nothing else does.

create index ends_of_ids on jobs (tenant_id, (right(id::text, 6) collate "C"));

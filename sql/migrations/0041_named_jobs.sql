-- Jobs are found by their name, and by the beginning of it; the order of bytes serves both, whatever the database's language.
--
-- Locks: `jobs` against writing while it is read, some seconds for ten million rows, of which none has a name yet. The running
-- release can live beside it. Neither a claim nor a report changes a name, so neither writes the index.

create index named_jobs on jobs (tenant_id, (name collate "C"), seq) where name is not null;

-- The attempts that began from a torn checkpoint, by when they said so. They are few, so one index for all tenants is small.
--
-- Locks: `events` against writing while it is read, some seconds for ten million rows. The running release can live beside it.

create index torn_resumes on events (at, job_id) where kind = 'resumed' and detail ->> 'checkpoint' = 'torn';

-- Changes of many jobs can be sent again with an Idempotency-Key.
--
-- submissions   has their keys, too. `below` is the number that the next job had when the first request came: only jobs below it are
--               changed, also by a repetition. `answer` is what was answered once all was done; null: not yet, so a
--               repetition goes on.
--
-- Locks: `submissions` for a moment. The running release can live beside it: a key of a change is one with another body to it.

alter table submissions add column below bigint, add column answer jsonb;

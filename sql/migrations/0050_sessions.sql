-- Sessions of people at the pages. A row ends with its key, and with a logout, so a cookie that was stolen is worth nothing
-- after either. Stored is a digest of what the cookie holds; the key itself is stored nowhere.
--
-- Locks: `api_keys` against writing for the moment in which the reference to it is made. The running release can live beside it:
-- it knows none of this, and a key that it deletes takes its sessions along.

create table sessions (
  digest  bytea not null primary key check (length(digest) = 32),
  key_id  uuid not null references api_keys on delete cascade,
  begun   timestamptz not null default now(),
  expires timestamptz not null
);

create index sessions_of_a_key on sessions (key_id, begun);
create index sessions_by_end on sessions (expires);

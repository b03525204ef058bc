-- What a key is good for. `user`: all that its user may do. `worker`: to claim, to report, and to read what was handed out,
-- so that no node needs a key that reads the environment of every job or cancels one.
--
-- Locks: `api_keys` for a moment. The running release can live beside it, but takes a worker's key for a user's: make
-- the first one when every process runs this release.

alter table api_keys add column role text not null default 'user' check (role in ('user', 'worker'));

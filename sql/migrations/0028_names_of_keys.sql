-- Keys with names, that operators make for their own tenant: who of them did something, and which are still used. `prefix`
-- is how the key begins, by which its owner recognizes it; both are null for keys that were made before. A new role,
-- `viewer`, reads and changes nothing. An operator's key is still stored as `user`, which is all that the release before
-- knows.
--
-- `last_used` has no index, so that writing it changes none. The unique one begins with the tenant, for its list.
--
-- Locks: `api_keys` for a moment, while its few rows are checked and the index is built. The running release can live
-- beside it, but answers a viewer's key 500: make the first one when every process runs this release.

alter table api_keys
  add column name text check (name ~ '^[A-Za-z0-9._@-]{1,64}$'),
  add column prefix text check (length(prefix) between 1 and 32),
  add column created_by text,
  add column last_used timestamptz,
  drop constraint api_keys_role_check,
  add constraint api_keys_role_check check (role in ('user', 'viewer', 'worker')),
  add constraint one_key_of_a_name unique (tenant_id, name);

-- Statements of the operator's command line, on users and their keys.

-- name: find_user
-- By id or by name; the id comes first, for a user may be named like the id of another.
select id, username, is_admin, created
  from users
 where username = %(wanted)s or id::text = lower(%(wanted)s)
 order by username = %(wanted)s
 limit 1;

-- name: list_users
select id, username, is_admin, created from users order by created, username;

-- name: list_api_keys
-- What is known of keys: never the key. Null: those of all users.
select k.id, u.username, k.org_name, t.project as project_name, k.created
  from api_keys k
  join tenants t on t.id = k.tenant_id
  join users u on u.id = t.user_id
 where (%(user_id)s::uuid is null or u.id = %(user_id)s)
 order by k.created, k.id;

-- name: revoke_api_key
-- No row: there is no such key.
delete from api_keys k
 using tenants t, users u
 where k.id = %(key_id)s and t.id = k.tenant_id and u.id = t.user_id
returning k.id, u.username, k.org_name, t.project as project_name;

-- Statements on users, tenants and keys, in the order of their lives.

-- name: create_user
-- No row: the name is taken.
insert into users (username)
values (%(username)s)
    on conflict (username) do nothing
returning id, username, created;

-- name: create_api_key
-- A key for one user in one project, which is made on first sight. No row: no such user.
with owner as (
  select id from users where id = %(user_id)s
),
tenant as (
  insert into tenants (user_id, project)
  select id, %(project)s from owner
      on conflict (user_id, project) do update set project = excluded.project
  returning id
)
insert into api_keys (tenant_id, org_name, digest)
select id, %(org_name)s, %(digest)s from tenant
returning id;

-- name: find_api_key
-- Whose key this is; the digest is returned to be compared in constant time.
select k.digest, k.tenant_id, u.id as user_id, u.username
  from api_keys k
  join tenants t on t.id = k.tenant_id
  join users u on u.id = t.user_id
 where k.digest = %(digest)s;

-- name: find_admin
select t.id as tenant_id, u.id as user_id, u.username
  from users u
  join tenants t on t.user_id = u.id
 where u.is_admin;

-- name: get_user
select id, username, created from users where id = %(user_id)s;

-- name: empty_queue_of_users
-- Before delete_users, in its transaction: the queue's rows are locked before the jobs' everywhere.
delete from queue using tenants t, users u
 where queue.tenant_id = t.id and t.user_id = u.id and not u.is_admin;

-- name: delete_users
-- All users but the administrator, with their keys and their jobs.
delete from users where not is_admin;

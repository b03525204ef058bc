-- Statements on users, tenants and keys, in the order of their lives.

-- Users and their keys.

-- name: create_user
-- No row: the name is taken.
insert into users (username)
values (%(username)s)
    on conflict (username) do nothing
returning id, username, created;

-- name: get_user
select id, username, created from users where id = %(user_id)s;

-- name: create_api_key
-- A key for one user in one project, which is made on first sight. No row: no such user. The release before knows an
-- operator as `user`, so that is stored.
with owner as (
  select id from users where id = %(user_id)s
),
tenant as (
  insert into tenants (user_id, project)
  select id, %(project)s from owner
      on conflict (user_id, project) do update set project = excluded.project
  returning id
)
insert into api_keys (tenant_id, org_name, digest, prefix, role)
select id, %(org_name)s, %(digest)s, %(prefix)s, case %(role)s::text when 'operator' then 'user' else %(role)s::text end
  from tenant
returning id;

-- name: create_named_key
-- A key that an operator makes for the own tenant. No row: that has `most` keys already.
insert into api_keys (tenant_id, org_name, digest, prefix, role, name, created_by)
select %(tenant_id)s, %(org_name)s, %(digest)s, %(prefix)s,
       case %(role)s::text when 'operator' then 'user' else %(role)s::text end, %(name)s, %(actor)s
 where (select count(*) from api_keys where tenant_id = %(tenant_id)s) < %(most)s
returning id, name, prefix, %(role)s::text as role, created, created_by, last_used;

-- name: find_api_key
-- Whose key this is; the digest is returned to be compared in constant time, and the fingerprint says with which key
-- of ours it is to be sealed.
select k.digest, k.tenant_id, u.id as user_id, u.username, u.is_admin and k.role = 'user' as is_admin, k.role,
       k.org_name as organization, t.project, k.id as key_id, k.name as key_name,
       (select fingerprint from secret_key) as fingerprint
  from api_keys k
  join tenants t on t.id = k.tenant_id
  join users u on u.id = t.user_id
 where k.digest = %(digest)s;

-- name: find_admin
select t.id as tenant_id, u.id as user_id, u.username
  from users u
  join tenants t on t.user_id = u.id
 where u.is_admin
 order by t.id
 limit 1;

-- Callers that Salad confirms.

-- name: find_owner
-- The user of an organization and its tenant in a project, for callers that Salad confirms; tenant 0, which has no
-- rows, where there is none yet. No row: unknown yet, or a name that is the administrator's, or that of a user that
-- the administrator made without the organization.
select coalesce(t.id, 0) as tenant_id, u.id as user_id, u.username, u.username as organization,
       %(project)s::text as project
  from users u
  left join tenants t on t.user_id = u.id and t.project = %(project)s
 where u.username = %(organization)s
   and is_of_organization(u, %(organization)s);

-- name: make_organization
-- The user alone, made on first sight, once however many ask at once, for the project may be made up. No row: as
-- find_owner.
insert into users (username, organization)
values (%(organization)s, %(organization)s)
    on conflict (username) do update
   set username = excluded.username
 where is_of_organization(users, excluded.organization)
returning 0::bigint as tenant_id, id as user_id, username, username as organization, %(project)s::text as project;

-- name: make_owner
-- The user and the tenant, made on first sight, once however many ask at once. No row: as find_owner.
with owner as (
  insert into users (username, organization)
  values (%(organization)s, %(organization)s)
      on conflict (username) do update
     set username = excluded.username
   where is_of_organization(users, excluded.organization)
  returning id, username
),
tenant as (
  insert into tenants (user_id, project)
  select id, %(project)s from owner
      on conflict (user_id, project) do update set project = excluded.project
  returning id
)
select tenant.id as tenant_id, owner.id as user_id, owner.username, owner.username as organization,
       %(project)s::text as project
  from owner
 cross join tenant;

-- name: recall_proof
-- How many seconds ago Salad confirmed this; by the database's clock, which all processes share. While
-- KELPIE_SECRET_KEY is being changed one question has several digests.
select extract(epoch from now() - proven)::float8 as age
  from salad_proofs
 where digest = any(%(digests)s::bytea[])
   and proven > now() - interval '1 day'
 order by proven desc
 limit 1;

-- name: keep_proof
insert into salad_proofs (digest)
values (%(digest)s)
    on conflict (digest) do update set proven = now();

-- name: drop_proof
delete from salad_proofs where digest = any(%(digests)s::bytea[]);

-- name: forget_proofs
-- Older ones count no more; a row that another process is at is left to it.
delete from salad_proofs
 where digest = any (array(
       select digest
         from salad_proofs
        where proven < now() - interval '1 day'
        limit 100
          for update skip locked));

-- name: recall_jwks
select keys, extract(epoch from now() - fetched)::float8 as age from jwks where url = %(url)s;

-- name: keep_jwks
insert into jwks (url, keys)
values (%(url)s, %(keys)s::jsonb)
    on conflict (url) do update set keys = excluded.keys, fetched = now();

-- Sessions of people at the pages.

-- name: begin_session
-- A session for a key, for some seconds. The oldest of the key beyond `most` go. No row: the key is gone.
with beyond as (
  delete from sessions
   where digest = any (array(
         select digest
           from sessions
          where key_id = %(key_id)s and expires >= now()
          order by begun desc
         offset %(most)s - 1
            for update skip locked))
)
insert into sessions (digest, key_id, expires)
select %(digest)s, id, now() + %(seconds)s * interval '1 second'
  from api_keys
 where id = %(key_id)s
returning expires;

-- name: begin_sealed_session
-- A session for a tenant of a key at Salad, which it has sealed. The oldest of the tenant beyond `most` go.
with beyond as (
  delete from sessions
   where digest = any (array(
         select digest
           from sessions
          where tenant_id = %(tenant_id)s
          order by begun desc
         offset %(most)s - 1
            for update skip locked))
)
insert into sessions (digest, tenant_id, sealed_key, expires)
values (%(digest)s, %(tenant_id)s, %(sealed_key)s, now() + %(seconds)s * interval '1 second');

-- name: find_session
-- Whose session this is, as find_api_key says it of the key; the digest is returned to be compared in constant time. Of one that began
-- with a key of Salad's the key and what it has to be good for.
select s.digest, t.id as tenant_id, u.id as user_id, u.username, u.is_admin and k.role = 'user' as is_admin,
       coalesce(k.role, 'operator') as role, coalesce(k.org_name, u.username) as organization, t.project, k.id as key_id,
       k.name as key_name, s.sealed_key
  from sessions s
  left join api_keys k on k.id = s.key_id
  join tenants t on t.id = coalesce(k.tenant_id, s.tenant_id)
  join users u on u.id = t.user_id
 where s.digest = %(digest)s
   and s.expires > now();

-- name: end_session
delete from sessions where digest = %(digest)s;

-- name: forget_sessions
-- Those that are over, with the keys that they have; a row that another process is at is left to it.
delete from sessions
 where digest = any (array(
       select digest from sessions where expires < now() order by expires limit 1000 for update skip locked));

-- The operator's command line.

-- name: find_user
-- By id or by name; the id comes first, for a user may be named like the id of another.
select id, username, is_admin, created
  from users
 where username = %(wanted)s or id::text = lower(%(wanted)s)
 order by username = %(wanted)s
 limit 1;

-- name: list_users
select id, username, is_admin, created from users order by created, username;

-- name: list_page_of_users
select id, username, created
  from users
 where %(after)s::uuid is null
    or (created, id) > (select c.created, c.id from users c where c.id = %(after)s)
 order by created, id
 limit %(most)s;

-- name: list_api_keys
-- What is known of keys: never the key. Null: those of all users.
select k.id, u.username, k.org_name, t.project as project_name, k.name, k.prefix,
       case k.role when 'user' then 'operator' else k.role end as role, k.created, k.created_by, k.last_used
  from api_keys k
  join tenants t on t.id = k.tenant_id
  join users u on u.id = t.user_id
 where (%(user_id)s::uuid is null or u.id = %(user_id)s)
 order by k.created, k.id;

-- name: list_keys_of_tenant
-- Those of the caller's tenant, or of all (null).
select k.id, k.name, k.prefix, case k.role when 'user' then 'operator' else k.role end as role, k.created,
       k.created_by, k.last_used, u.username, t.project as project_name
  from api_keys k
  join tenants t on t.id = k.tenant_id
  join users u on u.id = t.user_id
 where of_tenant(k.tenant_id, %(scope)s)
   and (%(after)s::uuid is null
        or (k.created, k.id) > (select c.created, c.id from api_keys c where c.id = %(after)s))
 order by k.created, k.id
 limit %(most)s;

-- name: delete_key
-- No row: the caller's tenant has no such key.
delete from api_keys
 where id = %(key_id)s
   and of_tenant(tenant_id, %(scope)s)
returning id;

-- name: note_uses_of_keys
-- When keys were used, to within some minutes: a time that is newer than five stays, so that a key that is used all the
-- time is written rarely. A row that another process is at is left to it.
update api_keys
   set last_used = now()
 where id in (
       select id
         from api_keys
        where id = any(%(key_ids)s::uuid[])
          and (last_used is null or last_used < now() - interval '5 minutes')
        order by id
          for no key update skip locked);

-- name: revoke_api_key
-- No row: there is no such key.
delete from api_keys k
 using tenants t, users u
 where k.id = %(key_id)s and t.id = k.tenant_id and u.id = t.user_id
returning k.id, u.username, k.org_name, t.project as project_name;

-- The end.

-- name: empty_queue_of_users
-- Before delete_users, in its transaction: the queue's rows are locked before the jobs' everywhere.
delete from queue using tenants t, users u
 where queue.tenant_id = t.id and t.user_id = u.id and not u.is_admin;

-- name: delete_users
-- All users but the administrator, with their keys and their jobs.
delete from users where not is_admin;

-- name: empty_queue_of_user
-- Before delete_user, in its transaction: the queue's rows are locked before the jobs' everywhere.
delete from queue using tenants t, users u
 where queue.tenant_id = t.id and t.user_id = u.id and u.id = %(user_id)s and not u.is_admin;

-- name: delete_user
-- One user with its keys and its jobs. No row: there is none, or it is the administrator.
delete from users where id = %(user_id)s and not is_admin
returning id, username, created;

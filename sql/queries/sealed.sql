-- Statements on what is sealed for jobs.

-- Secrets.

-- name: put_secret
-- A new value, sealed for a new id. No row: the tenant has `most` secrets already, and this is none of them.
insert into secrets (tenant_id, name, id, sealed, set_by)
select %(tenant_id)s, %(name)s, %(id)s, %(sealed)s, %(actor)s
 where exists (select from secrets where tenant_id = %(tenant_id)s and name = %(name)s)
    or (select count(*) from secrets where tenant_id = %(tenant_id)s) < %(most)s
    on conflict (tenant_id, name) do update
   set id = excluded.id, sealed = excluded.sealed, set_at = now(), set_by = excluded.set_by
returning name, set_at, set_by;

-- name: list_secrets
select name, set_at, set_by from secrets where tenant_id = %(tenant_id)s order by name;

-- name: lock_secret
-- Locked against being named by the defaults of a group: it comes before the look whether some do. No row: there is none.
select name from secrets where tenant_id = %(tenant_id)s and name = %(name)s for update;

-- name: group_that_names_secret
select container_group
  from group_settings
 where tenant_id = %(tenant_id)s
   and defaults -> 'secrets' ? %(name)s
 order by container_group
 limit 1;

-- name: delete_secret
-- Raises a violation of a_named_secret_is_there while an open job names it. No row: there is none.
delete from secrets where tenant_id = %(tenant_id)s and name = %(name)s returning name;

-- name: job_that_names_secret
select job_id from job_secrets where tenant_id = %(tenant_id)s and name = %(name)s limit 1;

-- name: list_names_of_secrets
-- Those of these names that there are.
select name from secrets where tenant_id = %(tenant_id)s and name = any(%(names)s::text[]);

-- name: keep_secrets
-- Those of these names that there are, locked against removal while defaults that name them are set.
select name
  from secrets
 where tenant_id = %(tenant_id)s
   and name = any(%(names)s::text[])
 order by name
   for key share;

-- name: get_secrets
select name, id, sealed
  from secrets
 where tenant_id = %(tenant_id)s
   and name = any(%(names)s::text[]);

-- Environments.

-- name: recall_sealing
-- The key that the database knows, and whether environments are to be sealed.
select fingerprint, seals_since is not null as seals from secret_key;

-- name: list_older_processes
-- Connections of the release before, by the name that it gave them.
select coalesce(host(client_addr), 'this host') as address, count(*) as connections
  from pg_stat_activity
 where datname = current_database()
   and application_name = 'kelpie'
 group by 1
 order by 1;

-- name: begin_sealing
-- No row: environments are sealed already.
update secret_key set seals_since = now() where seals_since is null returning seals_since;

-- name: newest_job
select coalesce(max(seq), 0)::bigint as seq from jobs;

-- name: list_open_environments
-- The first jobs between two numbers whose environment is not sealed.
select seq, id, environment::text as environment
  from jobs
 where seq > %(after)s
   and seq <= %(until)s
   and sealed_environment is null
   and environment <> '{}'
 order by seq
 limit %(most)s;

-- name: seal_environments
-- The rows of the queue first, as everywhere.
with held as materialized (
  select job_id from queue where job_id = any(%(ids)s::uuid[]) order by seq for update
)
update jobs j
   set environment = '{}', sealed_environment = anew.sealed
  from unnest(%(ids)s::uuid[], %(sealed)s::bytea[]) as anew (id, sealed)
 where j.id = anew.id
   and j.sealed_environment is null
   and (select count(*) from held) >= 0;

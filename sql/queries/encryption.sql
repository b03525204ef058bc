-- Statements on the key that all sealed columns are sealed with.

-- name: recall_secret_key
select fingerprint from secret_key;

-- name: remember_secret_key
insert into secret_key (fingerprint) values (%(fingerprint)s) on conflict do nothing;

-- name: lock_secret_key
-- One change of the key at a time.
select from secret_key for update;

-- name: replace_secret_key
-- No row: it is this one already.
update secret_key
   set fingerprint = %(fingerprint)s, since = now()
 where fingerprint <> %(fingerprint)s;

-- name: end_sealed_sessions
-- Those that have a key of Salad's.
delete from sessions where sealed_key is not null;

-- name: list_sealed_secrets
select id, sealed from signing_secrets;

-- name: reseal_secrets
-- Put what was sealed with another key in the place of what was read; not where it was replaced meanwhile.
update signing_secrets s
   set sealed = anew.after
  from unnest(%(ids)s::bigint[], %(before)s::bytea[], %(after)s::bytea[]) as anew (id, before, after)
 where s.id = anew.id
   and s.sealed = anew.before;

-- name: list_sealed_keys
-- Of the webhooks that are still to be sent.
select id, sealed_key as sealed
  from webhooks
 where next_try is not null
   and sealed_key is not null;

-- name: reseal_keys
-- As reseal_secrets.
update webhooks w
   set sealed_key = anew.after
  from unnest(%(ids)s::uuid[], %(before)s::bytea[], %(after)s::bytea[]) as anew (id, before, after)
 where w.id = anew.id
   and w.sealed_key = anew.before;

-- name: delete_signing_secrets
-- Their users get new ones when they are needed.
delete from signing_secrets where id = any(%(ids)s::bigint[]);

-- name: erase_sealed_keys
-- What still waits is sent without a key.
update webhooks set sealed_key = null where id = any(%(ids)s::uuid[]) and next_try is not null;

-- What is sealed for rows: secrets and environments of jobs. A mark in front names the key.

-- name: count_unreadable_rows
-- What was sealed with none of the keys of these marks.
select (select count(*) from secrets
         where not substr(sealed, 1, 9) = any(%(marks)s::bytea[]))::integer as job_secrets,
       (select count(*) from jobs
         where sealed_environment is not null
           and not substr(sealed_environment, 1, 9) = any(%(marks)s::bytea[]))::integer as environments;

-- name: list_secrets_of_other_keys
-- What was sealed with another key than that of the mark, some at a time.
select id, id as place, sealed
  from secrets
 where substr(sealed, 1, 9) <> %(mark)s::bytea
   and (%(after)s::uuid is null or id > %(after)s)
 order by id
 limit %(most)s;

-- name: reseal_job_secrets
-- As reseal_secrets.
update secrets s
   set sealed = anew.after
  from unnest(%(ids)s::uuid[], %(before)s::bytea[], %(after)s::bytea[]) as anew (id, before, after)
 where s.id = anew.id
   and s.sealed = anew.before;

-- name: list_environments_of_other_keys
-- As list_secrets_of_other_keys.
select id, seq as place, sealed_environment as sealed
  from jobs
 where sealed_environment is not null
   and substr(sealed_environment, 1, 9) <> %(mark)s::bytea
   and (%(after)s::bigint is null or seq > %(after)s)
 order by seq
 limit %(most)s;

-- name: reseal_environments
-- As reseal_secrets; the rows of the queue first, as everywhere.
with held as materialized (
  select job_id from queue where job_id = any(%(ids)s::uuid[]) order by seq for update
)
update jobs j
   set sealed_environment = anew.after
  from unnest(%(ids)s::uuid[], %(before)s::bytea[], %(after)s::bytea[]) as anew (id, before, after)
 where j.id = anew.id
   and j.sealed_environment = anew.before
   and (select count(*) from held) >= 0;

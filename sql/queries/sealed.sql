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

-- name: delete_secret
-- Raises a violation of a_named_secret_is_there while an open job names it. No row: there is none.
delete from secrets where tenant_id = %(tenant_id)s and name = %(name)s returning name;

-- name: job_that_names_secret
select job_id from job_secrets where tenant_id = %(tenant_id)s and name = %(name)s limit 1;

-- name: get_secrets
select name, id, sealed
  from secrets
 where tenant_id = %(tenant_id)s
   and name = any(%(names)s::text[]);

-- What a caller may mean by a word: the job of this id (`the_id`, null if the word is none), else jobs of this name, else jobs
-- whose ids end so (`ending`, null if none can), eleven at most. Whether one of this name is of `groups` is looked up for ten thousand
-- of each tenant's.
--
-- Why a function: see page_of_jobs.
create or replace function jobs_called(scope bigint, groups text[], word text, the_id uuid, ending text)
returns table (ids uuid[], is_name boolean) language plpgsql stable rows 1
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_variable
begin
is_name := false;
ids := array(select j.id from jobs j
              where j.id = the_id and of_tenant(j.tenant_id, scope) and of_group(coalesce(j.container_group, ''), groups));
if ids = '{}' then
  is_name := exists (select from tenants t
                      cross join lateral (select j.container_group from jobs j
                                           where j.tenant_id = t.id and j.name is not null and j.name collate "C" = word
                                           limit 10000) j
                      where of_tenant(t.id, scope) and of_group(coalesce(j.container_group, ''), groups));
end if;
if ids = '{}' and not is_name and ending is not null then
  ids := array(select j.id from tenants t
                cross join lateral (select * from jobs j
                                     where j.tenant_id = t.id and right(j.id::text, 6) collate "C" = right(ending, 6)) j
                where of_tenant(t.id, scope)
                  and of_group(coalesce(j.container_group, ''), groups)
                  and right(j.id::text, length(ending)) = ending
                limit 11);
end if;
return next;
end $$;

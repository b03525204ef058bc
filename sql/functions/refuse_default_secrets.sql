-- Refuse the jobs of a submission (KL004) where a secret that the defaults of a job's group name is not there, or is a variable of
-- the job's own environment, too. The detail has the job's place, the group, the name, and whether it is in the environment.
create or replace function refuse_default_secrets(the_tenant_id bigint, the_submitted jsonb) returns void language plpgsql stable
  set enable_seqscan = off
  set jit = off
as $$
declare
  refused jsonb;
begin
  select jsonb_build_object('index', g.place - 1, 'group', g.job ->> 'container_group', 'name', s.name, 'is_given', e.is_given)
    into refused
    from jsonb_array_elements(the_submitted) with ordinality as g (job, place)
    join group_settings d on d.tenant_id = the_tenant_id and d.container_group = lower(g.job ->> 'container_group')
   cross join lateral jsonb_array_elements_text(d.defaults -> 'secrets') as s (name)
   cross join lateral (
         select coalesce(g.job -> 'environment' ? s.name or g.job -> 'environment_names' ? s.name, false) as is_given) e
   where coalesce(not g.job -> 'options' ? 'secrets', true)
     and (e.is_given or not exists (select from secrets k where k.tenant_id = the_tenant_id and k.name = s.name))
   order by g.place, s.name
   limit 1;
  if found then
    raise exception 'a default secret does not fit' using errcode = 'KL004', detail = refused::text;
  end if;
end $$;

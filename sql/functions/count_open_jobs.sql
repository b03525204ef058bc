-- How many open jobs match what is `wanted`, an object as matching_jobs takes it; its `ended_since` matches none. What the caller may see is
-- narrowed by `scope` and `groups`, as there.
--
-- Guarantee: one pass over the tenant's rows of the queue, or the sweep's, so a long history costs nothing. Where something is asked that stands
-- in the jobs alone (name, labels, time) each of these jobs is looked up once, by its number.
--
-- Why a function: what is not asked for is left out of the plan, which is made for each call; and a plan for a hundred thousand looks
-- is not compiled, which takes longer than they do.
create or replace function count_open_jobs(scope bigint, groups text[], wanted jsonb) returns bigint language plpgsql stable
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set jit = off
as $$
#variable_conflict use_variable
declare
  owner      uuid     := wanted ->> 'user_id';
  ids        uuid[]   := case when wanted ? 'ids' then array(select jsonb_array_elements_text(wanted -> 'ids')::uuid) end;
  sweep      uuid     := nullif(wanted ->> 'sweep', 'none');
  no_sweep   boolean  := coalesce(wanted ->> 'sweep' = 'none', false);
  labels     jsonb[]  := case when wanted ? 'labels' then array(select jsonb_array_elements(wanted -> 'labels')) end;
  the_name   text     := wanted ->> 'name';
  beginning  text     := wanted ->> 'name_prefix';
  phases     text[]   := case when wanted ? 'phases' then array(select jsonb_array_elements_text(wanted -> 'phases')) end;
  statuses   text[]   := case when wanted ? 'statuses' then array(select jsonb_array_elements_text(wanted -> 'statuses')) end;
  the_group  text        := wanted ->> 'container_group';
  since      timestamptz := wanted ->> 'since';
  changed    timestamptz := wanted ->> 'changed_since';
  of_pending boolean  := statuses is null or 'pending' = any (statuses);
  of_running boolean  := statuses is null or 'running' = any (statuses);
  reads_jobs boolean  := wanted ?| array['name', 'name_prefix', 'labels', 'since'];
begin
if wanted ? 'ended_since' then
  return 0;
end if;
return (
  select count(*)
    from queue q
    left join job_phases p on phases is not null and p.job_id = q.job_id
    left join lateral (select j.name, j.labels, j.created from jobs j where j.seq = q.seq limit 1) j on reads_jobs
   where of_tenant(q.tenant_id, scope)
     and of_group(q.container_group, groups)
     and (owner is null or q.tenant_id in (select t.id from tenants t where t.user_id = owner))
     and (ids is null or q.job_id = any (ids))
     and (the_group is null or q.container_group = the_group)
     and case when q.rank & 1 = 1 then of_pending else of_running end
     and (sweep is null or q.sweep_id = sweep)
     and (not no_sweep or q.sweep_id is null)
     and (phases is null or p.phase = any (phases))
     and (the_name is null or j.name = the_name)
     and (beginning is null or starts_with(j.name, beginning))
     and (labels is null or j.labels @> all (labels))
     and (since is null or j.created >= since)
     and (changed is null
          or (select e.at from events e where e.job_id = q.job_id order by e.job_id desc, e.id desc limit 1) >= changed));
end $$;

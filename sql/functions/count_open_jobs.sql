-- How many open jobs match what is `wanted`, an object as matching_jobs takes it; its `ended_since` matches none. What the caller may see is
-- narrowed by `scope` and `groups`, as there.
--
-- Guarantee: one pass over the tenant's rows of the queue, or the sweep's. Where something is asked that stands in the jobs alone (name,
-- labels, time) these jobs are looked up, each once, by its number (as in ids_of_numbers); but first those are left out whose number is not among those of the name or
-- the first label, where the index has two hundred thousand of these at most (of a name or label since the oldest open job). So a long history
-- costs no more than that. Whether a silence counts is asked once for each interval of the leases, not for each of ten thousand
-- silent ones, which took half a second.
--
-- Why a function: what is not asked for is left out of the plan, which is made for each call; and a plan for a hundred thousand looks
-- is not compiled, which takes longer than they do. `is true` keeps the numbers of the name a table of hashes, which `work_mem` has room for;
-- joined to the queue they might be looked for in it one by one.
create or replace function count_open_jobs(scope bigint, groups text[], wanted jsonb) returns bigint language plpgsql stable
  set plan_cache_mode = force_custom_plan
  set enable_seqscan = off
  set enable_sort = off
  set work_mem = '32MB'
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
  enough     constant integer := 200000;
  tenant_ids bigint[] := array(select t.id from tenants t where of_tenant(t.id, scope) and (owner is null or t.user_id = owner));
  driver     text     := case when the_name is not null then 'name'
                              when beginning is not null then 'names'
                              when cardinality(labels) > 0 then 'label 0'
                         end;
  oldest     bigint[];
  pool       bigint[];
  lapsing    integer[];  -- the intervals of leases that have lapsed if they are silent
begin
if wanted ? 'ended_since' then
  return 0;
end if;
if phases is not null then
  lapsing := array(with intervals as materialized (
                     select distinct q.heartbeat_interval as seconds
                       from queue q
                      where q.machine_id is not null
                        and of_tenant(q.tenant_id, scope)
                   )
                   select i.seconds from intervals i where lapsed('-infinity', i.seconds));
end if;
if driver is not null then
  oldest := next_matching('status', tenant_ids, null, '{}', array['pending', 'running']::job_status[], null, true, 1);
  pool := next_matching(driver, tenant_ids, groups, wanted, null, oldest[1] - 1, true, enough + 1);
  if cardinality(pool) > enough then
    pool := null;
  end if;
end if;
return (
  with candidates as materialized (
    select q.seq
      from queue q
     where of_tenant(q.tenant_id, scope)
       and of_group(q.container_group, groups)
       and (owner is null or q.tenant_id = any (tenant_ids))
       and (pool is null or (q.seq in (select unnest(pool))) is true)
       and (ids is null or q.job_id = any (ids))
       and (the_group is null or q.container_group = the_group)
       and case when q.rank & 1 = 1 then of_pending else of_running end
       and (sweep is null or q.sweep_id = sweep)
       and (not no_sweep or q.sweep_id is null)
       and (phases is null
            or phase_by(q, (q.tenant_id, lower(q.container_group)) in (select p.tenant_id, p.container_group from paused_groups p),
                        q.heartbeat + 2 * q.heartbeat_interval * interval '1 second' < now() and q.heartbeat_interval = any (lapsing))
               = any (phases))
       and (changed is null
            or (select e.at from events e where e.job_id = q.job_id order by e.job_id desc, e.id desc limit 1) >= changed)
  )
  select count(*)
    from candidates c
    left join lateral (
         select j.name, j.labels, j.created from jobs j where j.seq between c.seq and c.seq order by j.seq limit 1
         ) j on reads_jobs
   where (the_name is null or j.name = the_name)
     and (beginning is null or starts_with(j.name, beginning))
     and (labels is null or j.labels @> all (labels))
     and (since is null or j.created >= since));
end $$;

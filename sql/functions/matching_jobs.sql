-- The numbers of the jobs that match what is `wanted`, in the order of a page: `most` of them, after the first `skipped`, of
-- those beyond the number `beyond` (null: from the beginning). What the caller may see is narrowed by `scope` and `groups`, as
-- in page_of_jobs. `wanted` is an object of
--
--   user_id; ids (a list); sweep (an id or `none`); labels (a list of objects of one key); name, or name_prefix; phases;
--   statuses; container_group; since, ended_since (of the creation and the end); changed_since (of the last event)
--
-- each of which may be absent. All that are there must hold. `any_order` beside them says that it is some of the jobs that match which
-- are asked for, not the next ones, as for a count.
--
-- Guarantee: one condition drives the search by its index, the others are looked up job by job (none is where a status, a final phase or a
-- group is all that is asked); `to_look_at` entries are looked at, at most. Where these are used up before the page is full `is_partial` is true, and `reached` is the last number that was
-- looked at, beyond which the next page goes on. The same before and after `analyze`, and however long the history is.
--
-- Which condition drives. A list of ids is the search. Of the others that have an index (sweep, label, name, status or phase)
-- each is asked for its first two thousand entries, and one that has less is the most selective: it is read whole already. If
-- none has less, it is what only jobs in the queue match (which is as small as the work in hand), then sweep, label, name, and
-- what is final. A beginning of names is no order of numbers, so it drives only where up to `to_look_at` jobs have it, or in any
-- order. Without any of these the tenant's jobs are looked at, newest or oldest first.
--
-- Why a function: see page_of_jobs. The driving statement is put together of fixed parts here, so each has only one plan.
create or replace function matching_jobs(
  scope bigint, groups text[], wanted jsonb, beyond bigint, oldest_first boolean, most integer, skipped bigint,
  to_look_at integer
) returns table (numbers bigint[], looked integer, reached bigint, is_partial boolean) language plpgsql stable rows 1
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_incremental_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_variable
declare
  enough constant integer := 2000;
  owner      uuid     := wanted ->> 'user_id';
  tenant_ids bigint[] := array(select t.id from tenants t where of_tenant(t.id, scope) and (owner is null or t.user_id = owner));
  ids        uuid[]   := case when wanted ? 'ids' then array(select jsonb_array_elements_text(wanted -> 'ids')::uuid) end;
  sweep      uuid     := nullif(wanted ->> 'sweep', 'none');
  no_sweep   boolean  := coalesce(wanted ->> 'sweep' = 'none', false);
  labels     jsonb    := coalesce(wanted -> 'labels', '[]');
  the_name   text     := wanted ->> 'name';
  beginning  text     := wanted ->> 'name_prefix';
  phases     text[]   := case when wanted ? 'phases' then array(select jsonb_array_elements_text(wanted -> 'phases')) end;
  statuses   job_status[] := case when wanted ? 'statuses'
                                  then array(select jsonb_array_elements_text(wanted -> 'statuses')::job_status) end;
  the_group  text        := wanted ->> 'container_group';
  since      timestamptz := wanted ->> 'since';
  ended      timestamptz := wanted ->> 'ended_since';
  changed    timestamptz := wanted ->> 'changed_since';
  any_order  boolean := coalesce((wanted ->> 'any_order')::boolean, false);
  direction  integer := case when oldest_first then 1 else -1 end;
  low        bigint  := case when since is null then 0 else coalesce(first_number_since(since), 9223372036854775807) end;
  -- The statuses that jobs of the phases asked for have.
  driving    job_status[];
  is_open    boolean;
  any_parked boolean;
  is_told    boolean;  -- the driver alone tells what matches, as its index answers it
  drivers    text[] := '{}';
  driver     text;
  label      record;
  pool       bigint[];
  candidates bigint[];
  last       bigint := case when oldest_first then greatest(beyond, low - 1) else beyond end;
  portion    integer;
  matching   bigint[] := '{}';
  fits       bigint[];
begin
looked := 0;
is_partial := false;
driving := case when phases is null then statuses
                else array(select s from unnest(enum_range(null::job_status)) s
                            where (statuses is null or s = any (statuses))
                              and case when s::text in ('completed', 'failed', 'canceled') then s::text = any (phases)
                                       when s = 'pending' then phases && array['pending', 'parked']
                                       else phases && array['parked', 'waiting', 'downloading', 'running', 'uploading', 'stalled']
                                  end)
           end;
is_open := coalesce(driving <@ array['pending', 'running']::job_status[], false);
any_parked := phases = array['parked'] and not exists (select from paused_groups p where p.tenant_id = any (tenant_ids));

if ids is not null then
  pool := array(select j.seq from jobs j where j.id = any (ids));
else
  drivers := case when any_parked then array['parked'] when is_open then array['status'] else '{}' end
             || case when sweep is not null then array['sweep'] else '{}' end
             || array(select 'label ' || n from generate_series(0, jsonb_array_length(labels) - 1) n)
             || case when the_name is not null then array['name'] else '{}' end
             || case when driving is not null and not is_open and not any_parked then array['status'] else '{}' end;
  if cardinality(drivers) > 1 then
    foreach driver in array drivers loop
      pool := next_matching(driver, tenant_ids, groups, wanted, driving, last, oldest_first, enough);
      exit when cardinality(pool) < enough;
      pool := null;
    end loop;
  end if;
  if pool is null and beginning is not null then
    pool := next_matching('names', tenant_ids, groups, wanted, driving, beyond, oldest_first, to_look_at + 1);
    if cardinality(pool) > to_look_at and not any_order then
      pool := null;
    end if;
  end if;
  driver := coalesce(drivers[1], 'status');
end if;
if pool is not null then
  pool := array(select p from unnest(pool) p
                 where beyond is null or (p - beyond) * direction > 0
                 order by p * direction);
end if;

is_told := pool is null and driver = 'status' and cardinality(drivers) <= 1 and not no_sweep and beginning is null
           and since is null and ended is null and changed is null
           and (phases is null or phases <@ array['completed', 'failed', 'canceled']);
portion := least(greatest(most + skipped, 100), to_look_at);
loop
  candidates := case when pool is not null then pool[looked + 1 : looked + portion]
                     else next_matching(driver, tenant_ids, groups, wanted, driving, last, oldest_first, portion) end;
  looked := looked + cardinality(candidates);
  reached := coalesce(candidates[cardinality(candidates)], last);
  fits := case when is_told then candidates else array(
    select c.seq
      from unnest(candidates) with ordinality as c (seq, place)
     cross join lateral (select * from jobs where jobs.seq between c.seq and c.seq order by jobs.seq limit 1) j
     where j.tenant_id = any (tenant_ids)
       and of_group(coalesce(j.container_group, ''), groups)
       and c.seq >= low
       and (since is null or j.created >= since)
       and (the_group is null or j.container_group = the_group)
       and (statuses is null or j.status = any (statuses))
       and (sweep is null or j.sweep_id = sweep)
       and (not no_sweep or j.sweep_id is null)
       and (the_name is null or j.name = the_name)
       and (beginning is null or starts_with(j.name, beginning))
       and (ended is null or coalesce(j.completed, j.failed, j.canceled) >= ended)
       and not exists (select from jsonb_array_elements(labels) l where not coalesce(j.labels @> l, false))
       and case when phases is null then true
                else coalesce((select p.phase from job_phases p where p.job_id = j.id), j.status::text) = any (phases)
           end
       and (changed is null
            or (select e.at from events e where e.job_id = j.id order by e.job_id desc, e.id desc limit 1) >= changed)
     order by c.place) end;
  matching := matching || fits;
  exit when cardinality(matching) >= skipped + most
         or cardinality(candidates) < portion
         or not oldest_first and reached < low;
  if looked >= to_look_at then
    is_partial := true;
    exit;
  end if;
  last := reached;
  portion := least(portion * 4, to_look_at - looked);
end loop;
numbers := matching[skipped + 1 : skipped + most];
return next;
end $$;

-- The numbers of one page of jobs, in the order of the page: `most` of them, after the first `skipped`, of those
-- beyond the number `beyond` (null: from the beginning). What the caller may see is narrowed by `scope` (null: all
-- tenants) and `groups` (null: all groups; '' is the null group), what it asks for by `the_status` and
-- `the_container_group` (null: any).
--
-- Guarantee: it reads no more index entries than `most` and `skipped` together, however many jobs the tenant has,
-- whatever their statuses, and whether the tables were ever analyzed. Where several groups are asked for, or all
-- tenants (by the administrator, with a filter), it reads that many of each.
--
-- Which index answers. Whether a job is pending or running stands in the queue, a final status in the time of its
-- end.
--
--                        of all groups            of some groups
--   any status           jobs_of_a_tenant         jobs_of_a_group
--   pending, running     open_jobs_of_a_tenant    open_jobs_of_a_group
--   a final status       ended_jobs_of_a_tenant   ended_jobs_of_a_group
--
-- Why a function. Which plan is right does not depend on the data, but the planner decides by statistics: on a
-- database that was never analyzed it read and sorted all 5,000 jobs of a tenant for a page of 100 (11 ms), and with
-- status = 'pending' looked each of them up in two other tables (27 ms, 25,000 pages). Here sorts, whole tables and
-- bitmaps are ruled out, so what is left is an index in the order of the page. The order names two or more columns,
-- because only the index that ends with exactly these can answer that; `tenant_id = 7 order by seq` could be answered
-- by walking over the jobs of all tenants. The plan is made once for each server session, and the branches that are
-- not asked for are not executed.
--
-- Where a scan ends. Up to Postgres 17 a comparison of rows ends the scan of an index by its first column only: with
-- `(tenant_id, status, seq)` compared to a tenant's last failed job, all that stands behind it of the tenant was read
-- (600 pages for 20 jobs of 100,000). So the columns before the one that ends the scan are compared for themselves.
-- The open and the ended jobs of a group cannot be: ordered by (status, seq) alone, the index of the whole tenant would do
-- for the planner. There the scan goes on to the group's next statuses, the limit ends it, and what is of another status is
-- left out; so where there are fewer jobs than the page has room for, as many entries are read as it has room for.
create or replace function page_of_jobs(
  scope bigint, groups text[], the_status job_status, the_container_group text,
  beyond bigint, oldest_first boolean, most integer, skipped bigint
) returns setof bigint language plpgsql stable rows 100
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_incremental_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  tenant_ids bigint[] := case when scope is null then array(select id from tenants) else array[scope] end;
  names text[] := case when the_container_group is null and groups is null then null  -- any
                       when the_container_group is null then array(select distinct unnest(groups))
                       when of_group(the_container_group, groups) then array[the_container_group]
                       else '{}'
                  end;
  of_all   boolean  := scope is null and names is null;
  is_open  boolean  := the_status in ('pending', 'running');
  is_final boolean  := not is_open;
  lowest   job_status := case when oldest_first then the_status else enum_first(the_status) end;
  highest  job_status := case when oldest_first then enum_last(the_status) else the_status end;
  low      bigint   := case when oldest_first and beyond is not null then least(beyond, 9223372036854775806) + 1 else 0 end;
  high     bigint   := case when oldest_first or beyond is null then 9223372036854775807 else beyond - 1 end;
  reach    bigint   := skipped + most;
begin
-- The two differ in their direction alone; a test compares them.
if oldest_first then
  return query
  with tenant as materialized (
    select id from unnest(tenant_ids) as t (id)
  ),
  line as materialized (
    select t.id, g.name from tenant t cross join unnest(names) as g (name)
  ),
  found as materialized (
    select page.seq
      from (select j.seq from jobs j where j.seq between low and high order by j.seq limit reach) page
     where of_all and the_status is null
     union all
    select page.seq
      from tenant t
     cross join lateral (
           select j.seq
             from jobs j
            where (j.tenant_id, j.seq) between (t.id, low)
                                    and (t.id, high)
            order by j.tenant_id, j.seq
            limit reach) page
     where the_status is null and names is null and not of_all
     union all
    select page.seq
      from line l
     cross join lateral (
           select j.seq
             from jobs j
            where j.tenant_id = l.id
              and (coalesce(j.container_group, ''), j.seq) between (l.name, low)
                                                       and (l.name, high)
            order by coalesce(j.container_group, ''), j.seq
            limit reach) page
     where the_status is null
     union all
    select page.seq
      from tenant t
     cross join lateral (
           select j.seq
             from open_jobs j
            where j.tenant_id = t.id
              and (j.status, j.seq) between (the_status, low)
                                and (the_status, high)
            order by j.status, j.seq
            limit reach) page
     where is_open and names is null
     union all
    select page.seq
      from line l
     cross join lateral (
           select j.status, j.seq
             from open_jobs j
            where j.tenant_id = l.id
              and (j.container_group, j.status, j.seq) between (l.name, lowest, low)
                                                   and (l.name, highest, high)
            order by j.container_group, j.status, j.seq
            limit reach) page
     where is_open and page.status = the_status
     union all
    select page.seq
      from tenant t
     cross join lateral (
           select j.seq
             from ended_jobs j
            where j.tenant_id = t.id
              and (j.status, j.seq) between (the_status, low)
                                and (the_status, high)
            order by j.status, j.seq
            limit reach) page
     where is_final and names is null
     union all
    select page.seq
      from line l
     cross join lateral (
           select j.status, j.seq
             from ended_jobs j
            where j.tenant_id = l.id
              and (j.container_group, j.status, j.seq) between (l.name, lowest, low)
                                                   and (l.name, highest, high)
            order by j.container_group, j.status, j.seq
            limit reach) page
     where is_final and page.status = the_status
  )
  select found.seq from found order by found.seq limit most offset skipped;
else
  return query
  with tenant as materialized (
    select id from unnest(tenant_ids) as t (id)
  ),
  line as materialized (
    select t.id, g.name from tenant t cross join unnest(names) as g (name)
  ),
  found as materialized (
    select page.seq
      from (select j.seq from jobs j where j.seq between low and high order by j.seq desc limit reach) page
     where of_all and the_status is null
     union all
    select page.seq
      from tenant t
     cross join lateral (
           select j.seq
             from jobs j
            where (j.tenant_id, j.seq) between (t.id, low)
                                    and (t.id, high)
            order by j.tenant_id desc, j.seq desc
            limit reach) page
     where the_status is null and names is null and not of_all
     union all
    select page.seq
      from line l
     cross join lateral (
           select j.seq
             from jobs j
            where j.tenant_id = l.id
              and (coalesce(j.container_group, ''), j.seq) between (l.name, low)
                                                       and (l.name, high)
            order by coalesce(j.container_group, '') desc, j.seq desc
            limit reach) page
     where the_status is null
     union all
    select page.seq
      from tenant t
     cross join lateral (
           select j.seq
             from open_jobs j
            where j.tenant_id = t.id
              and (j.status, j.seq) between (the_status, low)
                                and (the_status, high)
            order by j.status desc, j.seq desc
            limit reach) page
     where is_open and names is null
     union all
    select page.seq
      from line l
     cross join lateral (
           select j.status, j.seq
             from open_jobs j
            where j.tenant_id = l.id
              and (j.container_group, j.status, j.seq) between (l.name, lowest, low)
                                                   and (l.name, highest, high)
            order by j.container_group desc, j.status desc, j.seq desc
            limit reach) page
     where is_open and page.status = the_status
     union all
    select page.seq
      from tenant t
     cross join lateral (
           select j.seq
             from ended_jobs j
            where j.tenant_id = t.id
              and (j.status, j.seq) between (the_status, low)
                                and (the_status, high)
            order by j.status desc, j.seq desc
            limit reach) page
     where is_final and names is null
     union all
    select page.seq
      from line l
     cross join lateral (
           select j.status, j.seq
             from ended_jobs j
            where j.tenant_id = l.id
              and (j.container_group, j.status, j.seq) between (l.name, lowest, low)
                                                   and (l.name, highest, high)
            order by j.container_group desc, j.status desc, j.seq desc
            limit reach) page
     where is_final and page.status = the_status
  )
  select found.seq from found order by found.seq desc limit most offset skipped;
end if;
end $$;

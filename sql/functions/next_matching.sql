-- The next `portion` numbers of jobs beyond `beyond` that meet the one condition of `wanted` by which matching_jobs searches:
-- `driver`. For `status` these are the statuses of `driving` (null: any). An array, so that it is in order.
create or replace function next_matching(
  driver text, tenant_ids bigint[], groups text[], wanted jsonb, driving job_status[], beyond bigint, oldest_first boolean,
  portion integer
) returns bigint[] language plpgsql stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_incremental_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  low   bigint := case when oldest_first and beyond is not null then least(beyond, 9223372036854775806) + 1 else 0 end;
  high  bigint := case when oldest_first or beyond is null then 9223372036854775807 else beyond - 1 end;
  label jsonb  := case when driver like 'label %' then wanted -> 'labels' -> substr(driver, 7)::integer end;
  value text;
  body  text;
  answer bigint[];
begin
case when driver = 'status' then
  return array(
    select s.seq
      from unnest(tenant_ids) t (id)
     cross join lateral unnest(coalesce(driving, array[null]::job_status[])) d (status)
     cross join lateral page_of_jobs(t.id, groups, d.status, wanted ->> 'container_group', beyond, oldest_first, portion, 0)
                        s (seq)
     order by s.seq * case when oldest_first then 1 else -1 end
     limit portion);
when driver = 'names' then
  -- In the order of names; no name is longer than a hundred characters.
  value := wanted ->> 'name_prefix';
  return array(
    select p.seq
      from unnest(tenant_ids) t (id)
     cross join lateral (
           select j.seq
             from jobs j
            where j.tenant_id = t.id
              and j.name is not null
              and j.name collate "C" >= value
              and j.name collate "C" <= value || repeat(chr(1114111), 100)
            order by j.name collate "C", j.seq
            limit portion) p
     limit portion);
when driver = 'parked' then
  body := 'select q.seq from queue q where q.tenant_id = t.id and q.parked is not null'
          ' and q.seq between $4 and $5 order by q.tenant_id %1$s, q.seq %1$s';
when driver = 'sweep' then
  -- Of one tenant, whichever it is: its jobs are found whole by the id of the sweep.
  tenant_ids := tenant_ids[1:1];
  value := wanted ->> 'sweep';
  body := 'select j.seq from jobs j where j.sweep_id is not null'
          ' and (j.sweep_id, j.seq) between ($2::uuid, $4) and ($2::uuid, $5) order by j.sweep_id %1$s, j.seq %1$s';
when driver = 'name' then
  value := wanted ->> 'name';
  body := 'select j.seq from jobs j where j.tenant_id = t.id and j.name is not null'
          ' and (j.name collate "C", j.seq) between ($2, $4) and ($2, $5) order by j.name collate "C" %1$s, j.seq %1$s';
else
  select * into label, value from (select to_jsonb(l.key), l.value from jsonb_each_text(label) l limit 1) one;
  body := 'select l.seq from job_labels l where l.tenant_id = t.id and l.key = $3 and l.value = $2'
          ' and l.seq between $4 and $5 order by l.seq %1$s';
end case;
execute format('select array(select p.seq from unnest($1) t (id) cross join lateral (' || body || ' limit $6) p'
               ' order by p.seq %1$s limit $6)', case when oldest_first then 'asc' else 'desc' end)
   into answer
  using tenant_ids, value, label #>> '{}', low, high, portion;
return answer;
end $$;

-- How many jobs stand before one that can be claimed, in the order of claims (claim_order): those of its own line and those
-- of the null group's, of each `most` at most, and how many of them have a higher priority. A job whose lease lapsed stands
-- there, too.
--
-- Why a function: see page_of_jobs.
create or replace function place_in_line(
  the_tenant_id bigint, the_container_group text, the_rank smallint, the_seq bigint, most integer
) returns table (own integer, of_null_group integer, of_higher_priority integer) language plpgsql stable rows 1
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
begin
  return query
  with line as materialized (
    select the_container_group as name union select ''
  ),
  before as materialized (
    select l.name, found.rank
      from line l
     cross join lateral (
           (select q.rank
              from queue q
             where q.tenant_id = the_tenant_id
               and q.container_group = l.name
               and q.machine_id is null
               and q.parked is null
               and (q.rank, q.seq) < (the_rank, the_seq)
             order by q.rank, q.seq
             limit most)
            union all
           (select q.rank
              from queue q
             where q.tenant_id = the_tenant_id
               and q.container_group = l.name
               and q.machine_id is not null
               and not q.ends_on_lapse
               and (q.rank, q.seq) < (the_rank, the_seq)
               and lapsed(q.heartbeat, q.heartbeat_interval)
             order by q.rank, q.seq
             limit most)
            limit most) found
  )
  select (count(*) filter (where b.name = the_container_group))::integer,
         (count(*) filter (where b.name <> the_container_group))::integer,
         (count(*) filter (where b.rank & -2 < the_rank & -2))::integer
    from before b;
end $$;

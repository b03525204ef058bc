-- What the requests that wait for work could have. For each line (`{"tenant_id", "container_group", "waiters",
-- "machines"}`) as many jobs as it has waiters at most, in the order of the claim, each with the machines banned from
-- it or that have to wait for it; left out are those that none of the machines may have. And of the claim ids
-- (`{"tenant_id", "claim_id"}`) those that hold a job already. Nothing is locked. It is a function for the reasons that
-- hand_out_job is one.
create or replace function peek_at_lines(the_lines jsonb, the_claims jsonb) returns table (
  found_tenant_id bigint, found_group text, found_job_id uuid, found_attempt integer, found_banned text[],
  found_claim_id uuid
) language plpgsql stable
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
with lines as materialized (
  select l.tenant_id, l.container_group, l.waiters, l.machines,
         coalesce((select h.clear_until
                     from lapse_horizons h
                    where h.tenant_id = l.tenant_id
                      and h.container_group = l.container_group) <= now(), true) as may_have_lapsed
    from jsonb_to_recordset(the_lines) as l (tenant_id bigint, container_group text, waiters integer, machines text[])
)
select l.tenant_id, l.container_group, head.job_id, head.attempt,
       array(select b.machine_id from bans b where b.job_id = head.job_id
             union all
             select p.machine_id from pauses p where p.job_id = head.job_id and p.until > now()), null::uuid
  from lines l
 cross join lateral (
       select q.job_id, q.attempt
         from queue q
        where q.tenant_id = l.tenant_id
          and q.container_group = l.container_group
          and q.machine_id is null
          and q.parked is null
          and exists (select from unnest(l.machines) as m (id)
                       where not exists (select from bans b where b.job_id = q.job_id and b.machine_id = m.id offset 0)
                         and (q.looped_until is null or not has_to_wait(m.id, q.job_id)))
        order by q.rank, q.seq
        limit l.waiters) head
union all
select l.tenant_id, l.container_group, head.job_id, head.attempt,
       array(select b.machine_id from bans b where b.job_id = head.job_id
             union all
             select p.machine_id from pauses p where p.job_id = head.job_id and p.until > now()), null::uuid
  from lines l
 cross join lateral (
       select q.job_id, q.attempt
         from queue q
        where l.may_have_lapsed
          and q.tenant_id = l.tenant_id
          and q.container_group = l.container_group
          and q.machine_id is not null
          and not q.ends_on_lapse
          and lapsed(q.heartbeat, q.heartbeat_interval)
          and exists (select from unnest(l.machines) as m (id)
                       where not exists (select from bans b where b.job_id = q.job_id and b.machine_id = m.id offset 0)
                         and (q.looped_until is null or not has_to_wait(m.id, q.job_id)))
        order by q.rank, q.seq
        limit l.waiters) head
union all
select c.tenant_id, null, q.job_id, q.attempt, '{}', q.claim_id
  from jsonb_to_recordset(the_claims) as c (tenant_id bigint, claim_id uuid)
 cross join lateral (
       select q.job_id, q.attempt, q.claim_id
         from queue q
        where q.tenant_id = c.tenant_id
          and q.claim_id = c.claim_id) q;
end $$;

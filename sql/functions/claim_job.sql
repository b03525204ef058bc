create or replace function claim_job(
  the_tenant_id bigint, the_container_group text, the_machine_id text, the_claim_id uuid, the_actor text,
  the_sealed_key bytea, the_lines text[]
) returns setof shown_jobs language plpgsql
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
begin
-- Whoever stops a group waits for this lock, and so for claims that could not see its mark yet. The next statement sees
-- the mark, for it begins after the lock was taken. A repeated claim is answered all the same: its lease is known.
perform pg_advisory_xact_lock_shared(hashtext('kelpie claims'), hashtext(the_container_group));
return query
with repeated as materialized (
  update queue
     set heartbeat = now()
   where tenant_id = the_tenant_id
     and claim_id = the_claim_id
     and machine_id is not distinct from the_machine_id
  returning job_id
),
groups as materialized (
  select g.name,
         coalesce((select h.clear_until
                     from lapse_horizons h
                    where h.tenant_id = the_tenant_id
                      and h.container_group = g.name) <= now(), true) as may_have_lapsed
    from unnest(the_lines) as g (name)
   where not exists (select from stopping_groups s where s.container_group = the_container_group and s.until > now())
),
-- The head of each line, looked at without a lock, only to put the lines in order.
lines as materialized (
  select 'waiting' as kind, g.name, head.rank, head.seq
    from groups g
   cross join lateral (
         select q.rank, q.seq
           from queue q
          where q.tenant_id = the_tenant_id
            and q.container_group = g.name
            and q.machine_id is null
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
          order by q.rank, q.seq
          limit 1) head
  union all
  select 'lapsed', g.name, 0::smallint, head.seq
    from groups g
   cross join lateral (
         select q.seq
           from queue q
          where g.may_have_lapsed
            and q.tenant_id = the_tenant_id
            and q.container_group = g.name
            and q.machine_id is not null
            and lapsed(q.heartbeat, q.heartbeat_interval)
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
          order by q.seq
          limit 1) head
),
eligible as materialized (
  select coalesce(waiting.job_id, lapsed.job_id) as job_id,
         lapsed.attempt as lapsed_attempt, lapsed.heartbeat as last_heartbeat, lapsed.machine_id as last_machine
    from (select kind, name, rank, seq from lines order by rank, seq) line
    left join lateral (
         select q.job_id
           from queue q
          where line.kind = 'waiting'
            and q.tenant_id = the_tenant_id
            and q.container_group = line.name
            and q.machine_id is null
            and (q.rank, q.seq) >= (line.rank, line.seq)
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
          order by q.rank, q.seq
          limit 1
            for update skip locked) waiting on true
    left join lateral (
         select q.job_id, q.attempt, q.heartbeat, q.machine_id
           from queue q
          where line.kind = 'lapsed'
            and q.tenant_id = the_tenant_id
            and q.container_group = line.name
            and q.machine_id is not null
            and q.seq >= line.seq
            and lapsed(q.heartbeat, q.heartbeat_interval)
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
          order by q.seq
          limit 1
            for update skip locked) lapsed on true
   where coalesce(waiting.job_id, lapsed.job_id) is not null
     and not exists (select from repeated)
   limit 1
),
leased as (
  update queue q
     set rank = 0, attempt = q.attempt + 1, machine_id = the_machine_id, holder_group = the_container_group,
         claim_id = the_claim_id, heartbeat = now()
   where q.job_id = (select job_id from eligible)
  returning q.job_id, q.attempt, q.num_heartbeats
),
handed_out as (
  update jobs j
     set status = 'running', attempt = (select attempt from leased), machine_id = the_machine_id,
         started = coalesce(j.started, now()), heartbeat = now(),
         num_heartbeats = (select num_heartbeats from leased)
   where j.id = (select job_id from leased)
  returning j.*
),
interrupted as (
  update attempts a
     set ended = now(), outcome = 'interrupted', last_heartbeat = (select last_heartbeat from eligible)
   where a.job_id = (select job_id from eligible)
     and a.number = (select lapsed_attempt from eligible)
),
attempted as (
  insert into attempts (job_id, number, machine_id, container_group)
  select job_id, attempt, the_machine_id, the_container_group from leased
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, 'interrupted', the_actor, lapsed_attempt,
         jsonb_build_object('machine_id', last_machine, 'last_heartbeat', last_heartbeat)
    from eligible
   where lapsed_attempt is not null
   union all
  select job_id, 'claimed', the_actor, attempt,
         jsonb_build_object('machine_id', the_machine_id, 'container_group_id', the_container_group)
    from leased
),
hooked as (
  insert into webhooks (job_id, url, status, machine_id, container_group, sealed_key)
  select id, webhook, 'running', the_machine_id, the_container_group, the_sealed_key
    from handed_out
   where webhook is not null
)
select j.id, (select user_id from tenants where id = the_tenant_id) as user_id,
       j.status, j.created, j.started, j.completed, j.canceled, j.failed,
       j.command, j.arguments, j.environment, j.sync,
       j.input_bucket, j.input_prefix, j.checkpoint_bucket, j.checkpoint_prefix, j.output_bucket, j.output_prefix,
       j.compression, j.max_failures, j.heartbeat_interval, j.webhook,
       now() as heartbeat, j.num_failures, j.num_heartbeats, j.container_group as container_group_id,
       j.machine_id, j.attempt, j.seq, j.tenant_id, j.id
  from (select * from handed_out
         union all
        select * from jobs where id = (select job_id from repeated)) j;
end $$;

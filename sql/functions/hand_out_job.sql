-- Hand the first eligible job to one machine and open its lease; `the_speaks` are the parts of the protocol that the
-- machine's worker speaks (null: none). claim_job is the same for the release before.
--
-- Guarantees
--   * Order: by `rank` (claim_order has the rule), then `seq`: of one priority a job that lost its holder before one that is
--     new, and of these the oldest. `the_lines` are the container groups whose jobs this machine may have, '' being the
--     null group, whose jobs any machine of the tenant may have.
--   * A job goes to one machine. Rows that another claim holds are skipped, never waited for, and each line is
--     searched on beyond them, so no claim comes back empty while there is work.
--   * Never a job that is parked, nor one whose lapse may be its end (ends_on_lapse; end_attempts sees to those). Never
--     one that this machine is banned from or has to wait for (pauses), and none to a group that is paused
--     (paused_groups) or that Salad is being told to stop (stopping_groups).
--   * `attempt` grows by one with each handout: whichever machine held the job before can no longer write to it.
--   * Asked again with the same claim id, by the same machine, it answers the job and the attempt that this id holds
--     already and renews the lease. Two such requests at once: one of them violates one_holder_per_claim_id and is
--     asked again.
--   * A lease that lapsed ends only here: the attempt is closed as interrupted when the next one begins.
--
-- Locks, in this order: the advisory lock of the tenant's container group (claims_name), shared with other claims (claims_ended
-- takes it exclusively and so waits for the claims that began before a group was marked; the statements below see the
-- mark, because they begin after the lock was taken); the one row of `queue` that is handed out; its rows in `jobs`
-- and `attempts`; new rows.
--
-- Shape
--   * Three statements, each carried out only where it has something to do, for to set up the last one takes as long as the
--     answer to a worker that there is no work: the repeated claim, the job that is chosen, its handout.
--   * `lines` looks at the head of each line without a lock, only to put the lines in order; the choice goes through
--     them in that order, locks with `skip locked` and stops at the first row it got. A row that was locked is
--     checked again as it is then, and stays as it is until the handout.
--   * The lapsed are looked for only where some lease may have lapsed: lapse_horizons says until when none can (see
--     note_lapse_horizons). A missing or outdated row there costs the look at each held row of the line, never a
--     lapse.
--   * `not exists (... offset 0)` looks up the bans of one job at a time; a join would begin with all bans of the
--     machine. Pauses are looked up only of jobs that are taken and released in a loop (looped_until).
--   * The webhook of a handout in such a loop takes the place of the one that still waits to be sent.
--   * The update of `jobs` changes no indexed column and so writes none of the indexes of the history (a HOT update).
--
-- Why a function: its plans are made once for each server session. The API keeps no prepared statements, because it may
-- sit behind PgBouncer in transaction mode, and planning this costs more than running it (1.8 ms beside
-- 0.6). A plan inside a function survives there. It must not depend on when it was made: on an empty database the
-- planner would choose sequential scans and sorts, right for an empty table and ruinous for a million rows, hence the
-- settings. The cost that they put on what cannot be avoided would wake the JIT compiler, which takes a second for
-- it.
--
-- Measured (bench/README.md): beside 1,000,000 pending and 5,000,000 finished jobs a claim takes the time that it
-- takes beside 1,000 pending ones, reads 3 index entries to find its job, touches some 75 pages and locks one row of
-- the queue.
create or replace function hand_out_job(
  the_tenant_id bigint, the_container_group text, the_machine_id text, the_claim_id uuid, the_actor text,
  the_sealed_key bytea, the_lines text[], the_speaks text[]
) returns setof jobs language plpgsql
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
declare
  chosen record;
begin
perform pg_advisory_xact_lock_shared(hashtext('kelpie claims'), hashtext(claims_name(the_tenant_id, the_container_group)));
if the_claim_id is not null then
  update queue
     set heartbeat = now(), speaks = the_speaks
   where tenant_id = the_tenant_id
     and claim_id = the_claim_id
     and machine_id is not distinct from the_machine_id
  returning job_id into chosen;
  if found then
    return query select * from jobs where id = chosen.job_id;
    return;
  end if;
end if;
with groups as materialized (
  select g.name,
         coalesce((select h.clear_until
                     from lapse_horizons h
                    where h.tenant_id = the_tenant_id
                      and h.container_group = g.name) <= now(), true) as may_have_lapsed
    from unnest(the_lines) as g (name)
   where not exists (
         -- The release before marked a group by its id alone.
         select from stopping_groups s
          where s.container_group in (claims_name(the_tenant_id, the_container_group), the_container_group)
            and s.until > now())
     and not exists (
         select from paused_groups p
          where p.tenant_id = the_tenant_id
            and p.container_group = lower(the_container_group))
),
lines as materialized (
  select 'waiting' as kind, g.name, head.rank, head.seq
    from groups g
   cross join lateral (
         select q.rank, q.seq
           from queue q
          where q.tenant_id = the_tenant_id
            and q.container_group = g.name
            and q.machine_id is null
            and q.parked is null
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
            and (q.looped_until is null or not has_to_wait(the_machine_id, q.job_id))
          order by q.rank, q.seq
          limit 1) head
  union all
  select 'lapsed', g.name, head.rank, head.seq
    from groups g
   cross join lateral (
         select q.rank, q.seq
           from queue q
          where g.may_have_lapsed
            and q.tenant_id = the_tenant_id
            and q.container_group = g.name
            and q.machine_id is not null
            and not q.ends_on_lapse
            and lapsed(q.heartbeat, q.heartbeat_interval)
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
            and (q.looped_until is null or not has_to_wait(the_machine_id, q.job_id))
          order by q.rank, q.seq
          limit 1) head
)
select coalesce(waiting.job_id, lapsed.job_id) as job_id,
       lapsed.attempt as lapsed_attempt, lapsed.heartbeat as last_heartbeat, lapsed.machine_id as last_machine,
       lapsed.holder_group as last_group
  into chosen
  from (select kind, name, rank, seq from lines order by rank, seq) line
  left join lateral (
       select q.job_id
         from queue q
        where line.kind = 'waiting'
          and q.tenant_id = the_tenant_id
          and q.container_group = line.name
          and q.machine_id is null
          and q.parked is null
          and (q.rank, q.seq) >= (line.rank, line.seq)
          and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
          and (q.looped_until is null or not has_to_wait(the_machine_id, q.job_id))
        order by q.rank, q.seq
        limit 1
          for update skip locked) waiting on true
  left join lateral (
       select q.job_id, q.attempt, q.heartbeat, q.machine_id, q.holder_group
         from queue q
        where line.kind = 'lapsed'
          and q.tenant_id = the_tenant_id
          and q.container_group = line.name
          and q.machine_id is not null
          and not q.ends_on_lapse
          and (q.rank, q.seq) >= (line.rank, line.seq)
          and lapsed(q.heartbeat, q.heartbeat_interval)
          and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = the_machine_id offset 0)
          and (q.looped_until is null or not has_to_wait(the_machine_id, q.job_id))
        order by q.rank, q.seq
        limit 1
          for update skip locked) lapsed on true
 where coalesce(waiting.job_id, lapsed.job_id) is not null
 limit 1;
if not found then
  return;
end if;
return query
with leased as (
  update queue q
     set rank = q.rank & -2, attempt = q.attempt + 1, machine_id = the_machine_id, holder_group = the_container_group,
         claim_id = the_claim_id, heartbeat = now(), speaks = the_speaks,
         ends_on_lapse = coalesce(q.attempt + 1 >= q.ends_from_attempt, false),
         deadline = now() + least(q.attempt_seconds, q.seconds_left) * interval '1 second'
   where q.job_id = chosen.job_id
  returning q.job_id, q.attempt, q.num_heartbeats, coalesce(q.looped_until > now(), false) as is_looped
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
  insert into attempt_ends (job_id, number, outcome, last_heartbeat)
  select chosen.job_id, chosen.lapsed_attempt, 'interrupted', chosen.last_heartbeat
   where chosen.lapsed_attempt is not null
),
attempted as (
  insert into attempts (job_id, number, machine_id, container_group, speaks)
  select job_id, attempt, the_machine_id, the_container_group, the_speaks from leased
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select chosen.job_id, 'interrupted', the_actor, chosen.lapsed_attempt,
         jsonb_build_object('machine_id', chosen.last_machine, 'last_heartbeat', chosen.last_heartbeat)
   where chosen.lapsed_attempt is not null
   union all
  select job_id, 'claimed', the_actor, attempt,
         jsonb_build_object('machine_id', the_machine_id, 'container_group_id', the_container_group)
    from leased
   union all
  select id, 'noted', 'coordinator', attempt, jsonb_build_object('machine_id', the_machine_id, 'message', cannot)
    from handed_out
   cross join lateral unnest(beyond_worker(options, the_speaks)) as b (cannot)
   where options is not null
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select id, webhook, 'running'::job_status, 'interrupted', chosen.last_machine, chosen.last_group, null
    from handed_out
   where chosen.lapsed_attempt is not null
     and is_told(webhook, options, 'interrupted')
   union all
  select id, webhook, 'running', case when options ? 'webhook_events' then 'running' end, the_machine_id,
         the_container_group, the_sealed_key
    from handed_out
   where is_told(webhook, options, 'running')
     and case when (select is_looped from leased)
              then not take_over_webhook(id, the_machine_id, the_container_group, the_sealed_key)
              else true
         end
)
select * from handed_out;
end $$;

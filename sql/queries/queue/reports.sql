-- How attempts and jobs end: what a holder reports, and what cancels. Each takes the job's row in queue first.
--
-- `scope` and `groups` are the rows that the caller may touch: those of one tenant (null: of all), and of these only
-- the jobs of some container groups, '' being the null group, or held on behalf of one of them (null: of all).
--
-- A statement that waited for that row sees it as it is now, but every other table as it was when the statement began: an
-- attempt that a claim opened in between is invisible to an update. The trigger of attempt_ends sees it.

-- name: complete_job
-- The end of a job whose every output is in the bucket. Accepted from the holder, and for a pending job without a
-- holder (the original's behaviour). No row: refused, nothing was written.
--
-- This report and the two below tell the progress that was told last (`said`, null: none), for no heartbeat may have
-- carried it; what heartbeats told already is not written again.
with held as (
  delete from queue
   where job_id = %(job_id)s
     and may_end(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
  returning *
),
job as (
  update jobs j
     set status = 'completed', completed = now(), machine_id = %(machine_id)s,
         heartbeat = h.heartbeat, num_heartbeats = h.num_heartbeats
    from held h
   where j.id = h.job_id
  returning j.*
),
ended as (
  insert into attempt_ends (job_id, number, outcome, last_heartbeat, exit_code, reason, output, detail)
  select job_id, attempt, 'completed', heartbeat, %(exit_code)s, %(reason)s, %(output)s, %(detail)s
    from held
   where machine_id is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select id, 'completed', %(actor)s, attempt, jsonb_build_object('machine_id', %(machine_id)s::text) from job
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select id, webhook, 'completed', case when options ? 'webhook_events' then 'completed' end, %(machine_id)s,
         %(container_group)s, %(sealed_key)s::bytea
    from job
   where is_told(webhook, options, 'completed')
)
select status, sweep_id,
       (select tell_last_progress(h.job_id, h.attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json,
                                  %(output_bytes)s::bigint)
          from held h
         where h.machine_id is not null
           and num_nonnulls(%(said)s::json, %(output_bytes)s::bigint) > 0) as has_told
  from job;

-- name: fail_job
-- One failure of one attempt. Without a retry rule that matches it is counted, the machine banned from this job, and the
-- job handed on at once, or failed for good when it has no failures left. A rule may end or hold the job, or have it
-- handed out again, after a pause; then only `retry` counts and bans. One for a stall (`stalled`: 1, else 0), which the
-- job wants as its end, is looked up in no rule. `counted` is null where there is no rule. A pending job stays pending.
-- No row: refused.
--
-- Where it `counts` (1, else 0), it counts against the machine in the group that it held the job for; the one that fills
-- the set of `max_bans` (0: never) has the machine reallocated, and sets the count to zero. A machine that is not known yet
-- is written only where its tenant has less than `max_machines` (0: no limit).
with held as (
  select * from queue
   where job_id = %(job_id)s
     and may_end(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
     for update
),
ruled as materialized (
  select h.job_id, coalesce(r.rule ->> 'do', 'retry') as verdict,
         %(stalled)s = 1 or coalesce(j.options ? 'retry', false) as is_told,
         (coalesce(r.rule ->> 'do', 'retry') = 'retry')::integer as failure,
         retry_pause(r.rule, h.job_id, h.attempt) as backoff
    from held h
    join jobs j on j.id = h.job_id
   cross join lateral (
         select case when h.attempt = 0 then null
                     when %(stalled)s = 1 then '{"do": "fail"}'
                     when j.options ? 'retry' then retry_rule(j.options, %(exit_code)s, %(reason)s)
                end as rule) r
),
banned as (
  insert into bans (job_id, machine_id, reason)
  select job_id, %(machine_id)s, %(reason)s from ruled where verdict = 'retry'
      on conflict do nothing
  returning job_id
),
counted as (
  insert into machines as m (tenant_id, container_group, machine_id, bans, counted_bans)
  select h.tenant_id, h.holder_group, h.machine_id, 1, case when %(max_bans)s = 1 then 0 else %(counts)s end
    from held h
    join banned using (job_id)
   where h.machine_id is not null
     and (%(max_machines)s::integer = 0
          or exists (select from machines k
                      where k.tenant_id = h.tenant_id
                        and k.container_group = h.holder_group
                        and k.machine_id = h.machine_id)
          or %(max_machines)s > (select count(*)
                                   from (select from machines k where k.tenant_id = h.tenant_id limit %(max_machines)s) n))
      on conflict (tenant_id, container_group, machine_id) do update
     set last_seen = now(),
         bans = m.bans + 1,
         counted_bans = case when %(counts)s = 1 and %(max_bans)s between 1 and m.counted_bans + 1 then 0
                             else m.counted_bans + %(counts)s
                        end
  returning tenant_id, container_group, machine_id, counted_bans
),
reallocated as (
  insert into reallocations (tenant_id, container_group, machine_id, org_name)
  select tenant_id, container_group, machine_id, %(organization)s
    from counted
   where counted_bans = 0
     and %(counts)s = 1
),
job as (
  update jobs j
     set num_failures = j.num_failures + r.failure, machine_id = %(machine_id)s,
         status = case when r.verdict = 'fail' or j.num_failures + r.failure >= j.max_failures then 'failed' else j.status end,
         failed = case when r.verdict = 'fail' or j.num_failures + r.failure >= j.max_failures then now() end,
         reason = case when r.verdict = 'fail' then case %(stalled)s when 1 then 'stalled' else 'fail' end
                       when j.num_failures + r.failure >= j.max_failures then 'max_failures'
                       when r.verdict = 'hold' then 'retry_rule'
                  end,
         heartbeat = h.heartbeat, num_heartbeats = h.num_heartbeats
    from held h
    join ruled r using (job_id)
   where j.id = h.job_id
     -- Without a holder, only the ban tells a first report from its repetition.
     and (h.attempt > 0 or exists (select from banned))
  returning j.*
),
gone as (
  delete from queue q using job where q.job_id = job.id and job.status = 'failed'
),
waiting as (
  update queue q
     set machine_id = null, holder_group = null, claim_id = null, heartbeat = null,
         banned = q.banned or r.verdict = 'retry', blocked_since = null,
         -- A pending job without a holder may be parked; its reasons stay.
         parked = case when r.backoff > 0 then array['backoff'] else q.parked end,
         backoff_until = case when r.backoff > 0 then now() + r.backoff * interval '1 second' end,
         ends_on_lapse = q.ends_on_lapse or r.verdict = 'hold',
         wish = coalesce(q.wish, case when r.verdict = 'hold' then 'hold' end),
         wished_at = coalesce(q.wished_at, case when r.verdict = 'hold' then now() end),
         wish_by = coalesce(q.wish_by, case when r.verdict = 'hold' then 'coordinator' end)
    from job
    join ruled r on r.job_id = job.id
   where q.job_id = job.id
     and job.status <> 'failed'
  returning q.ends_on_lapse
),
ended as (
  insert into attempt_ends (job_id, number, outcome, last_heartbeat, exit_code, reason, output, detail)
  select job_id, attempt, 'failed', heartbeat, %(exit_code)s, %(reason)s, %(output)s, %(detail)s
    from held
   where machine_id is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job.id, kind, %(actor)s, job.attempt,
         jsonb_build_object('machine_id', %(machine_id)s::text, 'exit_code', %(exit_code)s::integer,
                            'reason', %(reason)s::text, 'num_failures', job.num_failures)
         || coalesce((select jsonb_build_object('counted', verdict = 'retry') from ruled where is_told), '{}')
    from job
   cross join lateral (values ('attempt_failed', true), ('failed', job.status = 'failed')) as e (kind, happened)
   where happened
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select id, webhook, 'failed', case when options ? 'webhook_events' then 'failed' end, %(machine_id)s,
         %(container_group)s, %(sealed_key)s::bytea
    from job
   where is_told(webhook, options, 'failed')
     and status = 'failed'
)
select status, sweep_id, (select verdict = 'retry' from ruled where is_told) as counted,
       coalesce((select ends_on_lapse from waiting), false) as is_to_be_ended,
       (select tell_last_progress(h.job_id, h.attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json,
                                  %(output_bytes)s::bigint)
          from held h
         where h.machine_id is not null
           and num_nonnulls(%(said)s::json, %(output_bytes)s::bigint) > 0) as has_told
  from job;

-- name: release_job
-- A worker gives its job back: no failure, no ban; any holder may have it at once. No row: refused.
--
-- A machine that takes the job and gives it back again and again waits for it, and after many releases all machines do: after
-- how many, and how long, says release_pauses. One that stalled and is to begin again (`stalled`: 1, else 0) bans the
-- machine from the second time on.
with held as (
  select * from queue
   where job_id = %(job_id)s
     and held_by(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
     for update
),
job as (
  update jobs j
     set heartbeat = h.heartbeat, num_heartbeats = h.num_heartbeats
    from held h
   where j.id = h.job_id
  returning j.id, j.attempt, j.status, j.sweep_id
),
loop as materialized (
  select h.job_id, p.machine_id, p.level, p.pause
    from held h
   cross join lateral release_pauses(h.job_id, h.attempt, h.machine_id) p
),
pause as (
  insert into pauses (job_id, machine_id, level, until)
  select job_id, machine_id, level, now() + pause from loop where pause is not null
      on conflict (job_id, machine_id) do update set level = excluded.level, until = excluded.until
  returning machine_id, extract(epoch from until - now())::integer as seconds
),
banned as (
  insert into bans (job_id, machine_id, reason)
  select job_id, machine_id, 'stalled' from held where %(stalled)s = 1 and stalls >= 1
      on conflict do nothing
  returning job_id
),
waiting as (
  update queue q
     set machine_id = null, holder_group = null, claim_id = null, heartbeat = null,
         stalls = q.stalls + %(stalled)s, banned = q.banned or exists (select from banned),
         looped_until = case when exists (select from loop) then now() + interval '10 minutes' else q.looped_until end
    from held h
   where q.job_id = h.job_id
  returning q.ends_on_lapse
),
ended as (
  insert into attempt_ends (job_id, number, outcome, last_heartbeat, exit_code, reason, detail)
  select job_id, attempt, 'released', heartbeat, %(exit_code)s, %(reason)s, %(detail)s
    from held
   where machine_id is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select id, 'released', %(actor)s, attempt,
         jsonb_build_object('machine_id', %(machine_id)s::text, 'reason', %(reason)s::text)
         || coalesce((select jsonb_build_object('pause_seconds', seconds) from pause where machine_id <> ''), '{}')
         || coalesce((select jsonb_build_object('job_pause_seconds', seconds) from pause where machine_id = ''), '{}')
    from job
)
select status, sweep_id, (select ends_on_lapse from waiting) as is_to_be_ended,
       (select tell_last_progress(h.job_id, h.attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json,
                                  %(output_bytes)s::bigint)
          from held h
         where h.machine_id is not null
           and num_nonnulls(%(said)s::json, %(output_bytes)s::bigint) > 0) as has_told
  from job;

-- name: cancel_job
-- End a job that is not final yet. No row: it was final already, or is not this caller's.
with held as (
  delete from queue
   where job_id = %(job_id)s
     and in_reach(queue, %(scope)s, %(groups)s)
  returning *
),
job as (
  update jobs j
     set status = 'canceled', canceled = now(), num_heartbeats = h.num_heartbeats,
         heartbeat = coalesce(h.heartbeat, j.heartbeat)
    from held h
   where j.id = h.job_id
  returning j.*
),
ended as (
  insert into attempt_ends (job_id, number, outcome, last_heartbeat)
  select job_id, attempt, 'canceled', heartbeat
    from held
   where machine_id is not null
),
told as (
  insert into events (job_id, kind, actor, attempt)
  select id, 'canceled', %(actor)s, attempt from job
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select id, webhook, 'canceled', 'canceled', coalesce(machine_id, ''), coalesce(container_group, ''), %(sealed_key)s::bytea
    from job
   where is_told(webhook, options, 'canceled')
)
select status, sweep_id from job;

-- name: fill_slots
-- Give the slot of a sweep that came free to its next job, see functions/fill_sweep.sql. A sweep without a limit has no slots: what was
-- parked before its limit was taken away is unparked with that, or by the look at all sweeps.
select fill_sweep(id, %(most)s) as changed from sweeps where id = %(id)s and max_parallel is not null;

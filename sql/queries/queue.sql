-- Statements on jobs, in the order of a job's life. Each takes the job's row in queue first.
--
-- `scope` and `groups` are the rows that the caller may touch: those of one tenant (null: of all), and of these only
-- the jobs of some container groups, '' being the null group, or held on behalf of one of them (null: of all).
--
-- A statement that waited for that row sees it as it is now, but every other table as it was when the statement began: an
-- attempt that a claim opened in between is invisible to an update. The trigger of attempt_ends sees it.

-- Submission.

-- name: submit_jobs
-- Create the jobs of one submission, or none; what is guaranteed, and when there is no row, stands in
-- functions/create_jobs.sql.
select s.*, c.shared_places as shared
  from create_jobs(%(tenant_id)s, %(submitted)s::jsonb, %(key)s, %(digest)s, %(job_ids)s, %(actor)s, %(most_jobs)s,
                   %(most_bytes)s) c
 cross join lateral visible_job(c.job, %(user_id)s, (c.job).heartbeat, c.parked_for) s
 order by s.seq;

-- name: count_open_jobs
-- The open jobs of a tenant, and the bytes of their definitions.
select coalesce(sum(jobs), 0)::bigint as jobs, coalesce(sum(bytes), 0)::bigint as bytes
  from open_job_counts
 where tenant_id = %(tenant_id)s;

-- name: find_submission
select digest, job_ids
  from submissions
 where tenant_id = %(tenant_id)s
   and key = %(key)s
   and created >= now() - interval '24 hours';

-- name: begin_bulk_change
-- Remember the key of a change of many jobs, and the number below which jobs are meant. No row: the key was used already.
insert into submissions (tenant_id, key, digest, below)
select %(tenant_id)s, %(key)s, %(digest)s::bytea, coalesce(max(seq), 0) + 1 from jobs
    on conflict (tenant_id, key) do update
   set digest = excluded.digest, job_ids = '{}', below = excluded.below, answer = null, created = now()
 where submissions.created < now() - interval '24 hours'
returning digest, below, answer;

-- name: find_bulk_change
select digest, below, answer
  from submissions
 where tenant_id = %(tenant_id)s
   and key = %(key)s
   and created >= now() - interval '24 hours';

-- name: end_bulk_change
-- Keep the answer of a change of many jobs, for a repetition.
update submissions
   set answer = %(answer)s::jsonb
 where tenant_id = %(tenant_id)s
   and key = %(key)s
   and below = %(below)s
   and answer is null;

-- name: first_tenant_of
-- Whose keys are meant where the administrator names a user. No row: there is no such user.
select id from tenants where user_id = %(user_id)s order by id limit 1;

-- name: get_submitted_jobs
-- The jobs of one submission as they are now, in the order in which they were submitted.
select *
  from visible_jobs
 where id = any (%(job_ids)s::uuid[])
   and of_tenant(tenant_id, %(scope)s)
   and of_group(coalesce(container_group_id, ''), %(groups)s)
 order by seq;

-- Waiting for work.

-- name: peek_at_lines
-- The jobs that waiting claims could take, see the function, and the groups of the tenant whose machines get none, in
-- small letters. `lines` and `claims` are lists of objects.
select found_tenant_id as tenant_id, found_group as container_group, found_job_id as job_id,
       found_attempt as attempt, found_banned as banned, found_claim_id as claim_id,
       array(select p.container_group from paused_groups p where p.tenant_id = found_tenant_id) as paused
  from peek_at_lines(%(lines)s::jsonb, %(claims)s::jsonb);

-- name: prove_listener
-- A word that a listener must hear, sent over another connection than its own.
select pg_notify('kelpie_work', %(token)s);

-- name: stay_connected
-- For a connection that listens and says nothing; the role or the database may end those that are idle.
set idle_session_timeout = 0;

-- name: listen
-- Only on a connection that serves nothing else.
listen kelpie_work;

-- In the hands of a machine.

-- name: claim_job
-- Hand the first eligible job to one machine and open its lease; what is guaranteed, and why it is a function, stands in
-- functions/hand_out_job.sql. No row: there is no work for this machine.
select s.*
  from hand_out_job(%(tenant_id)s, %(container_group)s, %(machine_id)s, %(claim_id)s, %(actor)s, %(sealed_key)s, %(lines)s,
                    %(speaks)s) j
 cross join lateral visible_job(j, %(user_id)s, now(), null) s;

-- name: park_unsealable
-- The coordinator takes a job back right after its handout, since its environment or a secret cannot be opened: no failure, no
-- ban; it is parked until it can be.
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
  returning j.id, j.attempt
),
parked as (
  update queue q
     set machine_id = null, holder_group = null, claim_id = null, heartbeat = null,
         parked = with_reason(coalesce(q.parked, '{}'), 'unsealable')
    from held h
   where q.job_id = h.job_id
),
ended as (
  insert into attempt_ends (job_id, number, outcome, last_heartbeat, reason, detail)
  select job_id, attempt, 'released', heartbeat, 'unsealable',
         'The coordinator could not open the environment or a secret of the job.'
    from held
)
insert into events (job_id, kind, actor, attempt, detail)
select id, kind, 'coordinator', attempt,
       jsonb_build_object('machine_id', %(machine_id)s::text, 'reason', 'unsealable')
  from job
 cross join (values ('released'), ('parked')) as e (kind);

-- name: list_unsealable
-- Jobs that are parked because something of them could not be opened, as with_secrets reads them.
select q.seq, j.id, j.tenant_id, j.options, j.sealed_environment,
       case when j.sealed_environment is null then j.environment end as environment
  from queue q
  join jobs j on j.id = q.job_id
 where 'unsealable' = any (q.parked)
   and q.seq > %(after)s
 order by q.seq
 limit %(most)s;

-- name: unpark_unsealable
-- They can be opened now, and are claimable again unless they are parked for another reason as well.
with ready as (
  select job_id from queue
   where job_id = any(%(job_ids)s::uuid[])
     and 'unsealable' = any (parked)
   order by seq
     for update
),
unparked as (
  update queue q
     set parked = without_reason(q.parked, 'unsealable')
    from ready
   where q.job_id = ready.job_id
  returning q.job_id, q.attempt
)
insert into events (job_id, kind, actor, attempt, detail)
select job_id, 'unparked', 'coordinator', attempt, '{"reason": "unsealable"}' from unparked;

-- name: renew_lease
-- Renew a lease that its holder still has, also one that lapsed and was not claimed since. Without an attempt
-- (the original's worker) the machine alone is compared. What the holder says of the job is kept: in the queue its phase and
-- fraction, all else of its progress in a row of its own (tell_progress). The answer has what is wished of the holder, and
-- the seconds until its time is over. No row: the caller does not hold this job.
with renewed as (
  update queue
     set heartbeat = now(), num_heartbeats = num_heartbeats + 1, checkpoint_lag = %(checkpoint_lag)s,
         phase = coalesce(%(phase)s, phase),
         fraction = coalesce(%(fraction)s, fraction),
         best_fraction = greatest(%(fraction)s, best_fraction),
         best_attempt = case when %(fraction)s::real > coalesce(best_fraction, -1) then attempt else best_attempt end,
         stalls = case when %(fraction)s::real > coalesce(best_fraction, -1) then 0 else stalls end,
         fraction_at = case when %(fraction)s::real <> fraction or (fraction is null and %(fraction)s::real is not null)
                            then now()
                            else fraction_at
                       end
   where job_id = %(job_id)s
     and held_by(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
  returning job_id, attempt, coalesce('steer' = any (speaks), false) as steers,
            case when deadline < now() and wish is distinct from 'cancel' then 'time_limit' else wish end as wish,
            extract(epoch from deadline - now())::float8 as seconds_left,
            watched_until > now() and 'output' = any (speaks) as watched
)
select attempt, steers, wish, seconds_left, watched,
       case when num_nonnulls(%(said)s::json, %(output_bytes)s::bigint) > 0
            then tell_progress(job_id, attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json,
                               %(output_bytes)s::bigint)
       end as has_told
  from renewed;

-- name: keep_checkpoint
-- Keep the manifest of a generation, from the holder only, and of the older ones the newest. The same generation again
-- replaces what was said of it; one that is older than what is known writes nothing. The newest generation of the
-- attempt is answered. No row: refused, nothing was written.
with held as (
  select job_id, attempt
    from queue
   where job_id = %(job_id)s
     and held_by(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
     for update
),
-- Its own row may be one that this statement, having waited for the lock, does not see; `kept` finds it all the same.
known as (
  select c.attempt, c.generation
    from checkpoints c
    join held h on h.job_id = c.job_id
   order by c.attempt desc, c.generation desc
),
newest as (
  select coalesce(max(k.generation), 0) as generation
    from known k
    join held h on h.attempt = k.attempt
),
kept as (
  insert into checkpoints (job_id, attempt, generation, files, bytes)
  select h.job_id, h.attempt, %(generation)s::bigint, %(files)s::jsonb, %(bytes)s
    from held h
   cross join newest n
   where n.generation <= %(generation)s::bigint
      on conflict (job_id, attempt, generation) do update
     set files = excluded.files, reported = excluded.reported, bytes = excluded.bytes
  returning job_id, attempt, generation
),
older as (
  delete from checkpoints c
   using kept
   where c.job_id = kept.job_id
     and (c.attempt, c.generation) <> (kept.attempt, kept.generation)
     and (c.attempt, c.generation) is distinct from (
           select (k.attempt, k.generation)
             from known k
            where (k.attempt, k.generation) <> (kept.attempt, kept.generation)
            order by k.attempt desc, k.generation desc
            limit 1)
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, 'checkpointed', %(actor)s, attempt,
         jsonb_build_object('machine_id', %(machine_id)s::text, 'files', jsonb_array_length(%(files)s::jsonb))
    from kept
   where (select generation from newest) = 0
),
marked as (
  insert into checkpoint_marks (job_id, attempt)
  select k.job_id, k.attempt
    from kept k
    join attempts a on a.job_id = k.job_id and a.number = k.attempt
   where (select generation from newest) < k.generation
     and not exists (
         select
           from checkpoint_marks m
          where m.job_id = k.job_id
            and m.attempt = k.attempt
            and m.at > now() - (now() - a.claimed) / 200)
      on conflict do nothing
)
select greatest(n.generation, %(generation)s::bigint) as generation
  from held
 cross join newest n;

-- name: newest_checkpoint
select attempt, generation, reported, files
  from checkpoints
 where job_id = %(job_id)s
 order by attempt desc, generation desc
 limit 1;

-- name: keep_output
-- Keep a piece of an attempt's output, from the holder only. The lock lets heartbeats pass and makes reports of the end wait,
-- so no piece comes after the end. A job that keeps none takes it and forgets it. No row: refused.
with held as (
  select job_id, attempt, tenant_id, watched_until > now() as watched
    from queue
   where job_id = %(job_id)s
     and held_by(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
     for key share
)
select case when most > 0
            then keep_piece(h.job_id, h.attempt, h.tenant_id, most, %(start)s::bigint, %(content)s::bytea)
            else %(start)s::bigint + octet_length(%(content)s::bytea)
       end as next,
       coalesce(h.watched, false) as watched
  from held h
 cross join lateral (
       select coalesce((j.options ->> 'keep_output')::integer, 0) as most from jobs j where j.id = h.job_id) k;

-- name: tell_resumed
-- How an attempt found the newest manifest when it began, from the holder only. No row: refused.
with held as (
  select job_id, attempt
    from queue
   where job_id = %(job_id)s
     and held_by(queue, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s)
     for update
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, 'resumed', %(actor)s, attempt,
         jsonb_build_object('machine_id', %(machine_id)s::text, 'checkpoint', %(checkpoint)s::text,
                            'detail', %(detail)s::text)
    from held h
   where not exists (select from events e
                      where e.job_id = h.job_id and e.kind = 'resumed' and e.attempt = h.attempt)
)
select attempt from held;

-- The end.

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
       (select tell_progress(h.job_id, h.attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json, null)
          from held h
         where h.machine_id is not null
           and %(said)s::text <> coalesce((select p.said::text
                                             from progress p
                                            where p.job_id = h.job_id
                                              and p.attempt = h.attempt), '')) as has_told
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
         case when r.rule ->> 'do' in ('retry', 'free') then coalesce(
              (r.rule ->> 'backoff')::integer,
              case when r.rule ->> 'do' = 'free' then least(300, 10 * 2 ^ (
                   select count(*)
                     from attempts a
                    where a.job_id = h.job_id
                      and a.number between h.attempt - 5 and h.attempt - 1
                      and a.outcome = 'failed'
                      and not exists (select
                                        from attempts b
                                       where b.job_id = h.job_id
                                         and b.number between a.number + 1 and h.attempt - 1
                                         and b.outcome <> 'failed')))
              end)
         end as backoff
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
         parked = case when r.backoff > 0 then array['backoff'] end,
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
       (select tell_progress(h.job_id, h.attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json, null)
          from held h
         where h.machine_id is not null
           and %(said)s::text <> coalesce((select p.said::text
                                             from progress p
                                            where p.job_id = h.job_id
                                              and p.attempt = h.attempt), '')) as has_told
  from job;

-- name: release_job
-- A worker gives its job back: no failure, no ban; any holder may have it at once. No row: refused.
--
-- The tenth release of a job by one machine within a minute makes this machine wait for it, 10 seconds at first; each release
-- within a minute after such a wait doubles it, up to five minutes. Other machines may have the job meanwhile. The thirtieth
-- release within a minute by whichever machines (callers choose their names) makes the job wait for all, in the same way, up
-- to one minute: the pause of a machine without a name. Of the attempts the last hundred are looked at. One that stalled and
-- is to begin again (`stalled`: 1, else 0) bans the machine from the second time on.
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
recent as materialized (
  select count(*) as releases, count(*) filter (where a.machine_id = h.machine_id) as by_this_machine
    from held h
    join attempts a on a.job_id = h.job_id
   where a.number between h.attempt - 100 and h.attempt - 1
     and a.outcome = 'released'
     and a.ended > now() - interval '1 minute'
),
due as materialized (
  select h.job_id, w.machine_id, w.longest, k.until > now() - interval '1 minute' as again
    from held h
   cross join recent r
   cross join lateral (values (h.machine_id, r.by_this_machine >= 9, interval '5 minutes'),
                              ('', r.releases >= 29, interval '1 minute')) as w (machine_id, is_loop, longest)
    left join pauses k on k.job_id = h.job_id and k.machine_id = w.machine_id
   where w.is_loop
      or k.until > now() - interval '1 minute'
),
pause as (
  insert into pauses as p (job_id, machine_id, level, until)
  select job_id, machine_id, 1, now() + interval '10 seconds' from due
      on conflict (job_id, machine_id) do update
     set (level, until) = (
         select case when d.again then p.level + 1 else 1 end,
                now() + case when d.again then least(interval '10 seconds' * 2 ^ least(p.level, 5), d.longest)
                             else interval '10 seconds'
                        end
           from due d
          where d.machine_id = p.machine_id)
  returning machine_id, extract(epoch from until - now())::integer as seconds
),
waiting as (
  update queue q
     set machine_id = null, holder_group = null, claim_id = null, heartbeat = null,
         stalls = q.stalls + %(stalled)s,
         looped_until = case when r.releases >= 9 or exists (select from pause) then now() + interval '10 minutes'
                             else q.looped_until
                        end
    from held h
   cross join recent r
   where q.job_id = h.job_id
  returning q.ends_on_lapse
),
banned as (
  insert into bans (job_id, machine_id, reason)
  select job_id, machine_id, 'stalled' from held where %(stalled)s = 1 and stalls >= 1
      on conflict do nothing
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
       (select tell_progress(h.job_id, h.attempt, %(said)s::json, %(fraction)s::double precision, %(point)s::json, null)
          from held h
         where h.machine_id is not null
           and %(said)s::text <> coalesce((select p.said::text
                                             from progress p
                                            where p.job_id = h.job_id
                                              and p.attempt = h.attempt), '')) as has_told
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

-- Wishes.

-- name: wish_for_job
-- What a person wants of a job: `hold`, `interrupt` or `cancel`. Of one that a machine holds it is noted, unless a stronger
-- wish stands there, and the answer to the next heartbeat says it; a job without a holder is parked at once for `hold`.
-- `holder`: live, silent (its lease lapsed, which ends the attempt with the wish) or null. `interrupt` is noted only
-- where a live holder can be told. `ban_too`: and its machine is banned from the job. No row: final, or not the
-- caller's.
with held as (
  select q.*, case when machine_id is null then null when lapsed(heartbeat, heartbeat_interval) then 'silent' else 'live' end
              as holder,
         coalesce('steer' = any (speaks), false) as steers,
         machine_id is not null
         and (%(wish)s <> 'interrupt' or ('steer' = any (speaks) and not lapsed(heartbeat, heartbeat_interval)))
         and (wish is null or array_position(array['cancel', 'hold'], %(wish)s)
                              <= coalesce(array_position(array['cancel', 'hold'], wish), 9) and wish <> %(wish)s) as is_new
    from queue q
   where job_id = %(job_id)s
     and in_reach(q, %(scope)s, %(groups)s)
     for update
),
wished as (
  update queue q
     set wish = %(wish)s, wished_at = now(), wish_by = %(actor)s, ends_on_lapse = true
    from held h
   where q.job_id = h.job_id
     and h.is_new
  returning q.job_id, q.attempt, q.machine_id
),
parked as (
  update queue q
     set parked = with_reason(q.parked, 'hold')
    from held h
   where q.job_id = h.job_id
     and h.machine_id is null
     and %(wish)s = 'hold'
     and coalesce('hold' <> all (q.parked), true)
  returning q.job_id, q.attempt
),
banned as (
  insert into bans (job_id, machine_id, reason)
  select h.job_id, h.machine_id, 'interrupt'
    from held h
   where %(ban_too)s
     and h.holder = 'live'
     and h.steers
      on conflict do nothing
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select j.id, j.webhook, 'running', 'held', coalesce(j.machine_id, ''), coalesce(j.container_group, ''), %(sealed_key)s::bytea
    from parked p
    join jobs j on j.id = p.job_id
   where is_told(j.webhook, j.options, 'held')
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, 'asked', %(actor)s, attempt,
         jsonb_build_object('wish', %(wish)s::text, 'machine_id', machine_id) || case when %(ban_too)s then '{"ban": true}'
                                                                                      else '{}'::jsonb
                                                                                 end
    from wished
   union all
  select job_id, 'parked', %(actor)s, attempt, '{"parked": "hold"}' from parked
)
select holder, steers,
       case when holder = 'live' and steers then now() + least(heartbeat_interval, 10) * interval '1 second' end as heard_by
  from held;

-- name: resume_job
-- Let a held job be claimed again, and one that waits after a failure at once; a wish to hold it is withdrawn. Attempts until
-- now count for no limit of fruitless ones. `did` is unparked, withdrawn, or null where there was nothing to resume. No
-- row: final, or not the caller's.
with held as (
  select q.*,
         case when parked && array['hold', 'backoff'] and not ends_on_lapse then 'unparked'
              when wish = 'hold' then 'withdrawn'
         end as did
    from queue q
   where job_id = %(job_id)s
     and in_reach(q, %(scope)s, %(groups)s)
     for update
),
resumed as (
  update queue q
     set parked = without_reason(without_reason(q.parked, 'hold'), 'backoff'), backoff_until = null,
         fruitful_attempt = q.attempt, wish = null, wished_at = null, wish_by = null,
         ends_on_lapse = q.machine_id is not null and coalesce(q.attempt >= q.ends_from_attempt, false)
    from held h
   where q.job_id = h.job_id
     and h.did is not null
     and (h.machine_id is not null or not h.ends_on_lapse)
  returning q.job_id, q.attempt
),
job as (
  update jobs j set reason = null from resumed r where j.id = r.job_id and j.reason is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select r.job_id, case h.did when 'unparked' then 'unparked' else 'asked' end, %(actor)s, r.attempt,
         case h.did when 'unparked' then '{"parked": "hold"}'::jsonb else '{"withdrawn": "hold"}' end
    from resumed r
    join held h using (job_id)
)
select did from held;

-- name: lock_job
-- A job that is to be changed, as it is: for what stands before the other statements of a transaction. No row: final, or not
-- the caller's.
select j.name, j.labels, j.priority, j.options, j.max_failures, j.num_failures
  from (select job_id
          from queue q
         where q.job_id = %(job_id)s
           and in_reach(q, %(scope)s, %(groups)s)
           for update) q
  join jobs j on j.id = q.job_id;

-- name: attempt_of_job
select attempt from queue where job_id = %(job_id)s;

-- name: change_job
-- What is said of a job anew, all of it, with its row of the queue locked before. Limits that are reached already mark a job
-- without a holder for end_attempts, which must follow; of one that is held the time counts from its handout.
with used as materialized (
  select coalesce(ceil(sum(extract(epoch from case outcome when 'interrupted' then last_heartbeat else ended end - claimed))
                         filter (where ended is not null)), 0)::integer as seconds,
         max(claimed) filter (where ended is null) as claimed
    from attempts
   where job_id = %(job_id)s
),
job as (
  update jobs
     set name = %(name)s, labels = %(labels)s, priority = %(priority)s, options = %(options)s,
         max_failures = %(max_failures)s
   where id = %(job_id)s
  returning id, tenant_id, seq, options
),
queued as (
  update queue q
     set rank = (q.rank & 1) - 2 * %(priority)s::integer,
         ends_from_attempt = ends_from_attempt(j.options),
         attempt_seconds = n.attempt_seconds,
         seconds_left = n.seconds_left,
         deadline = case when q.machine_id is not null
                         then u.claimed + least(n.attempt_seconds, n.seconds_left) * interval '1 second'
                    end,
         ends_on_lapse = case when q.machine_id is not null
                              then q.wish is not null or coalesce(q.attempt >= ends_from_attempt(j.options), false)
                              else q.ends_on_lapse or n.is_over
                         end,
         parked = case when q.machine_id is null and n.is_over then with_reason(q.parked, 'hold') else q.parked end
    from job j
   cross join used u
   cross join lateral (
         select (j.options ->> 'max_attempt_runtime')::integer as attempt_seconds,
                greatest((j.options ->> 'max_runtime')::integer - u.seconds, 0) as seconds_left) l
   cross join lateral (
         select l.attempt_seconds, case when j.options ? 'max_runtime' then l.seconds_left end as seconds_left) m
   cross join lateral (
         select m.*, coalesce(m.seconds_left = 0, false)
                     or coalesce(%(attempt)s >= nullif((j.options ->> 'max_attempts')::integer, 0), false) as is_over) n
   where q.job_id = j.id
  returning q.job_id, q.attempt
),
unlabeled as (
  delete from job_labels l
   using job j
   where l.tenant_id = j.tenant_id
     and l.seq = j.seq
     and (l.key, l.value) in (select key, value from jsonb_each_text(%(old_labels)s::jsonb))
     and not coalesce(%(labels)s::jsonb @> jsonb_build_object(l.key, l.value), false)
),
labeled as (
  insert into job_labels (tenant_id, key, value, seq)
  select j.tenant_id, label.key, label.value, j.seq
    from job j
   cross join lateral jsonb_each_text(%(labels)s::jsonb) as label (key, value)
      on conflict do nothing
)
insert into events (job_id, kind, actor, attempt, detail)
select job_id, 'changed', %(actor)s, attempt, jsonb_build_object('fields', %(fields)s::text[]) from queued;

-- name: unban_machines
-- Let machines have a job again that they are banned from, one or all (null). No row: final, or not the caller's.
with held as (
  select job_id, attempt
    from queue q
   where job_id = %(job_id)s
     and in_reach(q, %(scope)s, %(groups)s)
     for update
),
lifted as (
  delete from bans b
   using held h
   where b.job_id = h.job_id
     and (%(machine_id)s::text is null or b.machine_id = %(machine_id)s)
  returning b.machine_id
),
cleared as (
  update queue q
     set blocked_since = null,
         banned = exists (select from bans b
                           where b.job_id = q.job_id
                             and %(machine_id)s::text is not null
                             and b.machine_id <> %(machine_id)s)
    from held h
   where q.job_id = h.job_id
     and exists (select from lifted)
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select h.job_id, 'unbanned', %(actor)s, h.attempt,
         jsonb_build_object('machines', (select jsonb_agg(machine_id order by machine_id) from lifted))
    from held h
   where exists (select from lifted)
)
select (select count(*) from lifted) as count from held;

-- Container groups.

-- name: pause_group
insert into paused_groups (tenant_id, container_group, by)
values (%(tenant_id)s, lower(%(container_group)s), %(actor)s)
    on conflict do nothing;

-- name: have_claims_ended
-- Whether the claims have ended that began before a group was paused; those that begin now see that it is.
select claims_ended(claims_name(%(tenant_id)s, %(container_group)s)) as ended;

-- name: unpause_group
-- Claims that wait for the group's jobs, or for those of the null group, look at once.
with gone as (
  delete from paused_groups
   where tenant_id = %(tenant_id)s
     and container_group = lower(%(container_group)s)
  returning tenant_id
)
select pg_notify('kelpie_work', tenant_id || ' ' || line)
  from gone
 cross join unnest(array[%(container_group)s::text, '']) as line;

-- name: set_defaults
insert into group_settings (tenant_id, container_group, defaults, updated_by)
values (%(tenant_id)s, lower(%(container_group)s), %(defaults)s::jsonb, %(actor)s)
    on conflict (tenant_id, container_group) do update
   set defaults = excluded.defaults, updated = now(), updated_by = excluded.updated_by;

-- name: get_group
select p.container_group is not null as paused, p.since as paused_since, p.by as paused_by,
       coalesce(s.defaults, '{}') as defaults, r.price_per_hour
  from (select %(tenant_id)s::bigint as tenant_id, lower(%(container_group)s) as container_group) g
  left join paused_groups p using (tenant_id, container_group)
  left join group_settings s using (tenant_id, container_group)
  left join group_prices r using (tenant_id, container_group);

-- name: end_attempts
-- See to jobs of which a wish or a limit says what comes next; functions/end_attempts.sql says which, and what.
select end_attempts(%(job_id)s, %(most)s) as count;

-- name: end_backoffs
-- The next jobs whose pause after a failure is over can be claimed.
with due as materialized (
  select job_id
    from queue
   where backoff_until <= now()
   order by backoff_until
   limit %(most)s
     for update skip locked
),
ended as (
  update queue q
     set parked = without_reason(q.parked, 'backoff'), backoff_until = null
    from due d
   where q.job_id = d.job_id
  returning q.job_id, q.attempt
)
insert into events (job_id, kind, actor, attempt, detail)
select job_id, 'unparked', 'coordinator', attempt, '{"parked": "backoff"}' from ended;

-- name: standing_of_reporter
-- Why a report was refused: what became of the job, and what this machine said last about it, so that a report
-- whose answer was lost can be repeated. No row: no such job for this caller.
select j.status,
       (select a.outcome
          from attempts a
         where a.job_id = j.id
           and a.machine_id = %(machine_id)s
           and (%(attempt)s::integer is null or a.number = %(attempt)s)
         order by a.number desc
         limit 1) as outcome,
       (select (e.detail -> 'counted')::boolean
          from events e
         where e.job_id = j.id
           and e.kind = 'attempt_failed'
           and e.attempt = %(attempt)s
         order by e.id desc
         limit 1) as counted,
       exists (select from bans b where b.job_id = j.id and b.machine_id = %(machine_id)s) as banned,
       coalesce(j.machine_id = %(machine_id)s, false) as touched_last
  from jobs j
 where j.id = %(job_id)s
   and of_tenant(j.tenant_id, %(scope)s)
   and (of_group(coalesce(j.container_group, ''), %(groups)s)
        or exists (select from attempts a where a.job_id = j.id and a.container_group = any (%(groups)s)));

-- The end of all jobs of a container group, or of all.

-- name: lines_of_group
-- The lines of the queue that hold jobs of a container group which the caller may touch, and how far each reaches now.
select tenant_id, max(seq) as last_seq
  from queue
 where of_tenant(tenant_id, %(scope)s)
   and of_group(container_group, %(groups)s)
   and container_group = %(container_group)s
 group by tenant_id;

-- name: remove_pending_jobs
-- The next few jobs of a line that were never handed out, removed with their history. One that is claimed meanwhile is
-- left for cancel_jobs. Asked anew behind `after_seq`, so that no round looks again at the entries of those removed before.
with held as materialized (
  select job_id, seq
    from open_jobs
   where tenant_id = %(tenant_id)s
     and container_group = %(container_group)s
     and status = 'pending'
     and machine_id is null
     and seq > %(after_seq)s
     and seq <= %(last_seq)s
   order by seq
   limit %(most)s
     for update
),
gone as (
  delete from queue q using held h where q.job_id = h.job_id
),
removed as (
  delete from jobs j using held h where j.id = h.job_id
  returning j.seq
)
select count(*) as count, max(seq) as last_seq from removed;

-- name: cancel_jobs
-- End the next few jobs of a line that were handed out, with a holder or without.
with held as materialized (
  select *
    from queue
   where tenant_id = %(tenant_id)s
     and container_group = %(container_group)s
     and case when rank & 1 = 1 then 'pending'::job_status else 'running'::job_status end = 'running'
     and seq <= %(last_seq)s
   order by seq
   limit %(most)s
     for update
),
gone as (
  delete from queue q using held h where q.job_id = h.job_id
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
  select id, 'canceled', %(actor)s, attempt from job order by seq
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select id, webhook, 'canceled', 'canceled', coalesce(machine_id, ''), coalesce(container_group, ''), %(sealed_key)s::bytea
    from job
   where is_told(webhook, options, 'canceled')
)
select count(*) as count from job;

-- Changes of jobs by their numbers, which come in order, so that two of these statements lock them in the same one.

-- name: cancel_many
-- End jobs of the queue, with a holder or without.
with held as materialized (
  select q.*
    from unnest(%(numbers)s::bigint[]) as n (seq)
   cross join lateral (select id from jobs where jobs.seq = n.seq limit 1) j
   cross join lateral (
         select * from queue where queue.job_id = j.id and in_reach(queue, %(scope)s, %(groups)s) for update) q
),
gone as (
  delete from queue q using held h where q.job_id = h.job_id
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
  select id, 'canceled', %(actor)s, attempt from job order by seq
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select id, webhook, 'canceled', 'canceled', coalesce(machine_id, ''), coalesce(container_group, ''), %(sealed_key)s::bytea
    from job
   where is_told(webhook, options, 'canceled')
)
select count(*) as count from job;

-- name: hold_many
-- Park jobs of the queue; of those that a machine holds it is wished, unless a stronger wish stands there. `count` are all that
-- are held then, or will be.
with held as materialized (
  select q.*
    from unnest(%(numbers)s::bigint[]) as n (seq)
   cross join lateral (select id from jobs where jobs.seq = n.seq limit 1) j
   cross join lateral (
         select * from queue where queue.job_id = j.id and in_reach(queue, %(scope)s, %(groups)s) for update) q
),
wished as (
  update queue q
     set wish = 'hold', wished_at = now(), wish_by = %(actor)s, ends_on_lapse = true
    from held h
   where q.job_id = h.job_id
     and h.machine_id is not null
     and coalesce(h.wish not in ('hold', 'cancel'), true)
  returning q.job_id, q.attempt, q.machine_id
),
parked as (
  update queue q
     set parked = with_reason(q.parked, 'hold')
    from held h
   where q.job_id = h.job_id
     and h.machine_id is null
     and coalesce('hold' <> all (h.parked), true)
  returning q.job_id, q.attempt
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, 'asked', %(actor)s, attempt, jsonb_build_object('wish', 'hold', 'machine_id', machine_id) from wished
   union all
  select job_id, 'parked', %(actor)s, attempt, '{"parked": "hold"}' from parked
),
hooked as (
  insert into webhooks (job_id, url, status, event, machine_id, container_group, sealed_key)
  select j.id, j.webhook, 'running', 'held', coalesce(j.machine_id, ''), coalesce(j.container_group, ''), %(sealed_key)s::bytea
    from parked p
    join jobs j on j.id = p.job_id
   where is_told(j.webhook, j.options, 'held')
)
select count(*) as count from held where wish is distinct from 'cancel';

-- name: resume_many
-- Let held jobs of the queue be claimed again, and those that wait after a failure at once; a wish to hold one is withdrawn.
with held as materialized (
  select q.*
    from unnest(%(numbers)s::bigint[]) as n (seq)
   cross join lateral (select id from jobs where jobs.seq = n.seq limit 1) j
   cross join lateral (
         select * from queue where queue.job_id = j.id and in_reach(queue, %(scope)s, %(groups)s) for update) q
),
did as (
  select job_id, machine_id is null as unparked
    from held
   where case when machine_id is null then parked && array['hold', 'backoff'] and not ends_on_lapse else wish = 'hold' end
),
resumed as (
  update queue q
     set parked = without_reason(without_reason(q.parked, 'hold'), 'backoff'), backoff_until = null,
         fruitful_attempt = q.attempt, wish = null, wished_at = null, wish_by = null,
         ends_on_lapse = q.machine_id is not null and coalesce(q.attempt >= q.ends_from_attempt, false)
    from did d
   where q.job_id = d.job_id
  returning q.job_id, q.attempt, d.unparked
),
job as (
  update jobs j set reason = null from resumed r where j.id = r.job_id and j.reason is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, case when unparked then 'unparked' else 'asked' end, %(actor)s, attempt,
         case when unparked then '{"parked": "hold"}'::jsonb else '{"withdrawn": "hold"}' end
    from resumed
)
select count(*) as count from resumed;

-- name: purge_jobs
-- The jobs of all tenants; the tables are named in lock order.
truncate queue, jobs, attempts, checkpoints, checkpoint_marks, bans, events, webhooks, deliveries, submissions, lapse_horizons, machines,
  sweeps, dependencies, dependency_endings, reallocations, usage_of_days, usage_to_add;

-- Reading.

-- name: get_job
select (s.job).*, s.checkpoint_generation, s.checkpoint_at, s.checkpoint_bytes, s.said, s.said_at, s.said_fraction,
       s.changed_at, s.first_fraction, s.first_at, s.is_live,
       (select q.checkpoint_lag from queue q where q.job_id = %(job_id)s) as checkpoint_lag
  from described_jobs(array(select seq from jobs where id = %(job_id)s)) s
 where of_tenant((s.job).tenant_id, %(scope)s)
   and (of_group(coalesce((s.job).container_group_id, ''), %(groups)s)
        or exists (select from attempts a where a.job_id = %(job_id)s and a.container_group = any (%(groups)s)));

-- name: list_jobs
-- One page of jobs, newest first or `oldest_first`. Which they are is found in an index, see functions/page_of_jobs.sql; only
-- then each is looked up, so a page costs the same whatever else there is.
select (s.job).*, s.checkpoint_generation, s.checkpoint_at, s.checkpoint_bytes, s.said, s.said_at, s.said_fraction,
       s.changed_at, s.first_fraction, s.first_at, s.is_live, s.bytes
  from described_jobs(array(
       select page_of_jobs(%(scope)s, %(groups)s, %(status)s, %(container_group)s, %(beyond)s, %(oldest_first)s, %(most)s,
                           %(skipped)s))) s;

-- name: jobs_called
select ids, is_name from jobs_called(%(scope)s, %(groups)s, %(word)s, %(the_id)s, %(ending)s);

-- name: find_jobs
-- The numbers of the jobs that match, in the order of a page; see functions/matching_jobs.sql.
select numbers, looked, reached, is_partial
  from matching_jobs(%(scope)s, %(groups)s, %(wanted)s::jsonb, %(beyond)s, %(oldest_first)s, %(most)s, %(skipped)s,
                     %(to_look_at)s);

-- name: show_jobs
-- Jobs by their numbers, in the order of these.
select (s.job).*, s.checkpoint_generation, s.checkpoint_at, s.checkpoint_bytes, s.said, s.said_at, s.said_fraction,
       s.changed_at, s.first_fraction, s.first_at, s.is_live, s.bytes
  from described_jobs(%(numbers)s) s;

-- name: ids_of_jobs
-- Jobs by their numbers, in the order of these.
select j.id, j.status
  from unnest(%(numbers)s::bigint[]) with ordinality as page (seq, place)
 cross join lateral (select id, status from jobs where jobs.seq = page.seq limit 1) j
 order by page.place;

-- name: count_open
-- The open jobs that match, where all that is asked stands in the queue.
select count(*) as count
  from queue q
  left join job_phases p on %(phases)s::text[] is not null and p.job_id = q.job_id
 where of_tenant(q.tenant_id, %(scope)s)
   and of_group(q.container_group, %(groups)s)
   and (%(user_id)s::uuid is null or q.tenant_id in (select t.id from tenants t where t.user_id = %(user_id)s::uuid))
   and (%(container_group)s::text is null or q.container_group = %(container_group)s)
   and case when q.rank & 1 = 1 then 'pending' else 'running' end = any (%(statuses)s::text[])
   and case when %(sweep)s::text is null then true
            when %(sweep)s = 'none' then q.sweep_id is null
            else q.sweep_id::text = %(sweep)s
       end
   and (%(phases)s::text[] is null or p.phase = any (%(phases)s));

-- name: digest_of_jobs
-- How jobs are: a digest of all that users see change, but heartbeats and progress.
select now() as at,
       md5(string_agg(concat_ws(' ', s.id, s.status, s.phase, s.parked, s.attempt, s.num_failures, s.machine_id, s.reason,
                                s.priority, s.name, s.labels), '; ' order by s.seq)) as digest
  from unnest(%(numbers)s::bigint[]) as page (seq)
 cross join lateral (select * from visible_jobs where visible_jobs.seq = page.seq limit 1) s;

-- name: changed_jobs
-- Those of some jobs that may have changed since a time: by an event, or silent, which is a change without one.
select page.seq
  from unnest(%(numbers)s::bigint[]) as page (seq)
 cross join lateral (select id from jobs where jobs.seq = page.seq limit 1) j
 where (select e.at from events e where e.job_id = j.id order by e.id desc limit 1) >= %(since)s
    or exists (select from queue q
                where q.job_id = j.id
                  and q.heartbeat + 2 * q.heartbeat_interval * interval '1 second' between %(since)s and now());

-- name: get_progress
-- What a job's command told of its progress, and what the coordinator made of it. No row: it told nothing.
select p.attempt, p.said, p.said_at, p.said_fraction, p.changed_at, p.output_bytes, p.first_fraction, p.first_at,
       p.went_from, p.went_to, p.went_in, p.point_seconds,
       coalesce(q.phase in ('running', 'stalled', 'downloading', 'uploading') and q.attempt = p.attempt, false) as is_live
  from progress p
  left join (select h.job_id, h.phase, queue.attempt from job_phases h join queue using (job_id)) q on q.job_id = p.job_id
 where p.job_id = %(job_id)s;

-- name: output_of_attempt
-- How far the output of an attempt is, how much of its end is kept, and whether the attempt is over or there was none.
select coalesce(o.next, 0) as next, coalesce((j.options ->> 'keep_output')::integer, 0) as most,
       not exists (select from attempts a where a.job_id = j.id and a.number = %(attempt)s and a.ended is null)
       and j.attempt >= %(attempt)s as is_over
  from jobs j
  left join outputs o on o.job_id = j.id and o.attempt = %(attempt)s
 where j.id = %(job_id)s;

-- name: list_output_pieces
select start, content
  from output_pieces
 where job_id = %(job_id)s
   and attempt = %(attempt)s
   and start + octet_length(content) > %(start)s
 order by start;

-- name: watch_output
-- Have the holder send its output every second for the next 30 seconds; written every 15 seconds at most. Not beyond `most` jobs of a
-- tenant, nor where the attempt is over or its worker sends none. A row: it is watched.
with live as (
  select job_id, tenant_id, watched_until
    from queue
   where job_id = %(job_id)s
     and attempt = %(attempt)s
     and machine_id is not null
     and 'output' = any (speaks)
),
noted as (
  update queue q
     set watched_until = now() + interval '30 seconds'
    from live l
   where q.job_id = l.job_id
     and q.attempt = %(attempt)s
     and q.machine_id is not null
     and coalesce(q.watched_until, '-infinity') < now() + interval '15 seconds'
     and (q.watched_until > now()
          or %(most)s > (select count(*)
                           from queue w
                          where w.tenant_id = l.tenant_id
                            and w.machine_id is not null
                            and w.watched_until > now()))
  returning q.job_id
)
select job_id from noted
 union
select job_id from live where watched_until >= now() + interval '15 seconds';

-- name: look_at_outputs
-- How far the output of some attempts is, and which of them are over. `asked` is a list of objects.
select k.job_id, k.attempt, coalesce(o.next, 0) as next,
       coalesce(a.ended is not null, false) as is_over
  from jsonb_to_recordset(%(asked)s::jsonb) as k (job_id uuid, attempt integer)
  left join outputs o on o.job_id = k.job_id and o.attempt = k.attempt
  left join attempts a on a.job_id = k.job_id and a.number = k.attempt;

-- name: list_progress_points
select at, attempt, fraction, step, metrics
  from progress_points
 where job_id = %(job_id)s
 order by number;

-- name: list_attempts
-- The handouts of a job after one of them, first to last; the last heartbeat of a live attempt stands in the queue.
select a.number, a.machine_id, a.container_group as container_group_id, a.claimed,
       coalesce(a.last_heartbeat, q.heartbeat) as last_heartbeat,
       a.ended, a.outcome, a.exit_code, a.reason, a.detail, a.output, a.held, a.useful, a.lost, a.price_per_hour as price
  from attempts a
  left join queue q on q.job_id = a.job_id and q.attempt = a.number
 where a.job_id = %(job_id)s
   and a.number > %(after)s
 order by a.number
 limit %(most)s;

-- name: jobs_held_by
-- Which of these jobs of a tenant a machine holds.
select job_id
  from queue
 where job_id = any (%(job_ids)s::uuid[])
   and of_tenant(tenant_id, %(scope)s)
   and machine_id = %(machine_id)s
   and holder_group = %(container_group)s;

-- name: list_events
select id, at, kind, actor, attempt, detail
  from events
 where job_id = %(job_id)s
   and id > %(after)s
 order by id
 limit %(most)s;

-- Maintenance.

-- name: be_seen
-- Keep the coordinator's liveness fresh; write down a gap of over a second as an outage. One process at a time
-- does it, the others find the row fresh.
with gap as (
  select seen from coordinator where seen < now() - interval '0.4 seconds' for update skip locked
),
outage as (
  insert into outages (began, ended)
  select seen, now() from gap where seen < now() - interval '1 second'
      on conflict (ended) do nothing
  returning began, ended
),
fresh as (
  update coordinator set seen = now() from gap
)
select began, ended from outage;

-- name: forget_outages
-- Two intervals after its end an outage matters to no lease; the longest interval is a day.
delete from outages where ended < now() - interval '2 days' - interval '1 hour';

-- name: forget_submissions
-- After a day a key is new again, whether its row is still there or not; the hour keeps the two apart.
delete from submissions where created < now() - interval '25 hours';

-- name: settle_open_job_counts
-- Add up the rows of tenants that have many, and remove those of tenants without open jobs. Rows that come meanwhile are left
-- to the next time. One process at a time does it.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie open job counts')) as ours
),
many as materialized (
  select tenant_id
    from open_job_counts
   where (select ours from turn)
   group by tenant_id
  having count(*) > 100 or (sum(jobs) = 0 and sum(bytes) = 0)
),
settled as (
  delete from open_job_counts where tenant_id in (select tenant_id from many)
  returning tenant_id, jobs, bytes
)
insert into open_job_counts (tenant_id, jobs, bytes)
select tenant_id, sum(jobs), sum(bytes)
  from settled
 group by tenant_id
having sum(jobs) <> 0 or sum(bytes) <> 0;

-- name: trim_outputs
select trim_outputs(%(most)s) as removed;

-- name: note_lapse_horizons
-- For each line in which many leases are held: until when none of them can lapse. A lease that this statement does
-- not see yet was claimed after it began, so it lasts for two seconds at the least; half a second of that
-- is left for its commit. One process at a time does it.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie lapse horizons')) as ours
),
leases as materialized (
  select tenant_id, container_group, heartbeat_interval, min(heartbeat) as heartbeat, count(*) as held
    from queue
   where machine_id is not null
     and (select ours from turn)
   group by tenant_id, container_group, heartbeat_interval
)
insert into lapse_horizons (tenant_id, container_group, clear_until)
select tenant_id, container_group,
       least(min(greatest(heartbeat, silence_counts_from(heartbeat_interval))
                 + 2 * heartbeat_interval * interval '1 second'),
             now() + interval '1.5 seconds')
  from leases
 group by tenant_id, container_group
having sum(held) >= 10
    on conflict (tenant_id, container_group) do update set clear_until = excluded.clear_until;

-- name: count_dead_queue_rows
-- And whether this role may vacuum them away: from Postgres 17 on it can be granted, before that only the owner may.
select n_dead_tup,
       case when current_setting('server_version_num')::integer >= 170000
            then has_table_privilege(relid, 'maintain')
            else pg_has_role((select relowner from pg_class where oid = relid), 'usage')
       end as may_vacuum
  from pg_stat_user_tables
 where relid = 'queue'::regclass;

-- name: vacuum_queue
-- Outside a transaction. A plain VACUUM may skip the indexes, and it is there that the dead entries slow the claim.
vacuum (index_cleanup on, truncate off, skip_locked) queue;

-- Retention.

-- name: prune_jobs
-- Look at the next `batch` jobs in the order of their numbers, and remove those that finished longer ago than `kept_for`, with
-- all that belongs to them; a job is removed whole or not at all. Never one that is in the queue, nor one with a
-- webhook that is still to be delivered. `reached` is the number to go on after; null: nothing is left to look at, for
-- what comes is younger than that. One caller at a time does it; the others get `taken`. Where `really` is false,
-- only the count is made.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie prune')) as ours
),
looked_at as materialized (
  select id, seq, created, coalesce(completed, failed, canceled) as finished
    from jobs
   where seq > %(after)s
     and (select ours from turn)
   order by seq
   limit %(batch)s
),
expired as materialized (
  select l.id
    from looked_at l
   where l.finished < now() - %(kept_for)s::interval
     and not exists (select from queue q where q.job_id = l.id)
     and not exists (select from webhooks w where w.job_id = l.id and w.next_try is not null)
),
removed as (
  delete from jobs using expired where jobs.id = expired.id and %(really)s::boolean
)
select not (select ours from turn) as taken,
       (select max(seq) from looked_at having min(created) < now() - %(kept_for)s::interval) as reached,
       (select count(*) from expired) as expired;

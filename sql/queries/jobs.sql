-- Statements on jobs, in the order of a job's life. Each takes the job's row in queue first.
--
-- `scope` and `groups` are the rows that the caller may touch: those of one tenant (null: of all), and of these only
-- the jobs of some container groups, '' being the null group, or held on behalf of one of them (null: of all).
--
-- A statement that waited for that row sees it as it is now, but every other table as it was when the statement began: an
-- attempt that a claim opened in between is invisible to an update. `on conflict` finds it all the same.

-- name: submit_jobs
-- Create all the jobs of one submission, or none; a batch keeps its own order. `submitted` is a list of
-- objects with the columns of jobs. With a key it is remembered for a day, and no row means that this key was used
-- already; whoever comes with the same key at the same moment waits until it is known which.
with remembered as (
  insert into submissions (tenant_id, key, digest, job_ids)
  select %(tenant_id)s, %(key)s::text, %(digest)s::bytea, %(job_ids)s::uuid[]
   where %(key)s::text is not null
      on conflict (tenant_id, key) do update
     set digest = excluded.digest, job_ids = excluded.job_ids, created = now()
   where submissions.created < now() - interval '24 hours'
  returning key
),
submitted as (
  select * from rows from (
    jsonb_to_recordset(%(submitted)s::jsonb) as (
      id uuid, container_group text, command text, arguments jsonb, environment jsonb, sync jsonb,
      input_bucket text, input_prefix text, checkpoint_bucket text, checkpoint_prefix text,
      output_bucket text, output_prefix text, compression boolean, max_failures integer,
      heartbeat_interval integer, webhook text)
  ) with ordinality as s (
      id, container_group, command, arguments, environment, sync, input_bucket, input_prefix,
      checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix, compression, max_failures,
      heartbeat_interval, webhook, place)
   where %(key)s::text is null
      or exists (select from remembered)
),
created as (
  insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, input_bucket,
                    input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
                    compression, max_failures, heartbeat_interval, webhook)
  select id, %(tenant_id)s, container_group, command, arguments, environment, sync, input_bucket,
         input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
         compression, max_failures, heartbeat_interval, webhook
    from submitted
   order by place
  returning *
),
queued as (
  insert into queue (job_id, tenant_id, container_group, seq, heartbeat_interval)
  select id, tenant_id, coalesce(container_group, ''), seq, heartbeat_interval from created
),
told as (
  insert into events (job_id, kind, actor, attempt)
  select id, 'submitted', %(actor)s, 0 from created order by seq
)
select id, %(user_id)s::uuid as user_id, status, created, started, completed, canceled, failed,
       command, arguments, environment, sync,
       input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
       compression, max_failures, heartbeat_interval, webhook,
       heartbeat, num_failures, num_heartbeats, container_group as container_group_id, machine_id, attempt
  from created
 order by seq;

-- name: find_submission
select digest, job_ids from submissions where tenant_id = %(tenant_id)s and key = %(key)s;

-- name: get_submitted_jobs
-- The jobs of one submission as they are now, in the order in which they were submitted.
select id, user_id, status, created, started, completed, canceled, failed,
       command, arguments, environment, sync,
       input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
       compression, max_failures, heartbeat_interval, webhook,
       heartbeat, num_failures, num_heartbeats, container_group_id, machine_id, attempt
  from shown_jobs
 where id = any (%(job_ids)s::uuid[])
   and (%(scope)s::bigint is null or tenant_id = %(scope)s)
   and (%(groups)s::text[] is null or coalesce(container_group_id, '') = any (%(groups)s))
 order by seq;

-- name: claim_job
-- Hand the oldest eligible job to one worker and open its lease: first a job that was handed out before and
-- lost its holder, then a pending one; never one that this machine is banned from. Rows that another
-- claimant holds are skipped, never waited for, so no job goes to two and nobody comes back empty while there
-- is work. attempt only ever grows: whoever held the job before can no longer write to it. Asked again with the same
-- claim_id, it answers the job and attempt that this id holds already.
select id, user_id, status, created, started, completed, canceled, failed,
       command, arguments, environment, sync,
       input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
       compression, max_failures, heartbeat_interval, webhook,
       heartbeat, num_failures, num_heartbeats, container_group_id, machine_id, attempt
  from claim_job(%(tenant_id)s, %(container_group)s, %(machine_id)s, %(claim_id)s::uuid, %(actor)s,
                 %(sealed_key)s::bytea, %(lines)s::text[]);

-- name: renew_lease
-- Renew a lease that its holder still has, also one that lapsed and that nobody claimed yet. Without an attempt
-- (the original's worker) the machine alone is compared. No row: the caller does not hold this job.
update queue
   set heartbeat = now(), num_heartbeats = num_heartbeats + 1, checkpoint_lag = %(checkpoint_lag)s
 where job_id = %(job_id)s
   and (%(scope)s::bigint is null or tenant_id = %(scope)s)
   and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
   and machine_id = %(machine_id)s
   and (%(attempt)s::integer is null or attempt = %(attempt)s)
returning attempt;

-- name: complete_job
-- The end of a job whose every output is in the bucket. Accepted from the holder, and for a pending job that
-- nobody holds (the original's behaviour). No row: refused, nothing was written.
with held as (
  delete from queue
   where job_id = %(job_id)s
     and (%(scope)s::bigint is null or tenant_id = %(scope)s)
     and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
     and (%(attempt)s::integer is null or attempt = %(attempt)s)
     and (machine_id = %(machine_id)s or attempt = 0)
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
  insert into attempts (job_id, number, machine_id, container_group, last_heartbeat, ended, outcome, exit_code, reason,
                        output, detail)
  select job_id, attempt, machine_id, holder_group, heartbeat, now(), 'completed', %(exit_code)s, %(reason)s,
         %(output)s, %(detail)s
    from held
   where machine_id is not null
      on conflict (job_id, number) do update
     set ended = excluded.ended, outcome = excluded.outcome, last_heartbeat = excluded.last_heartbeat,
         exit_code = excluded.exit_code, reason = excluded.reason, output = excluded.output,
         detail = excluded.detail
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select id, 'completed', %(actor)s, attempt, jsonb_build_object('machine_id', %(machine_id)s::text) from job
),
hooked as (
  insert into webhooks (job_id, url, status, machine_id, container_group, sealed_key)
  select id, webhook, 'completed', %(machine_id)s, %(container_group)s, %(sealed_key)s::bytea
    from job
   where webhook is not null
)
select status from job;

-- name: fail_job
-- One failure of one attempt: counted, the machine banned from this job, and the job handed on at once, or
-- failed for good when it has no failures left. A pending job that nobody holds stays pending. No row: refused.
--
-- Where it `counts` (1, else 0), it counts against the machine in the group that it held the job for; the one that fills
-- the set of `max_bans` (0: never) has the machine reallocated, and sets the count to zero.
with held as (
  select * from queue
   where job_id = %(job_id)s
     and (%(scope)s::bigint is null or tenant_id = %(scope)s)
     and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
     and (%(attempt)s::integer is null or attempt = %(attempt)s)
     and (machine_id = %(machine_id)s or attempt = 0)
     for update
),
banned as (
  insert into bans (job_id, machine_id, reason)
  select job_id, %(machine_id)s, %(reason)s from held
      on conflict do nothing
  returning job_id
),
counted as (
  insert into machines as m (tenant_id, container_group, machine_id, bans, counted_bans)
  select h.tenant_id, h.holder_group, h.machine_id, 1, case when %(max_bans)s = 1 then 0 else %(counts)s end
    from held h
    join banned using (job_id)
   where h.machine_id is not null
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
     set num_failures = j.num_failures + 1, machine_id = %(machine_id)s,
         status = case when j.num_failures + 1 >= j.max_failures then 'failed' else j.status end,
         failed = case when j.num_failures + 1 >= j.max_failures then now() end,
         heartbeat = h.heartbeat, num_heartbeats = h.num_heartbeats
    from held h
   where j.id = h.job_id
     -- Where nobody holds the job, only the ban tells a first report from its repetition.
     and (h.attempt > 0 or exists (select from banned))
  returning j.*
),
gone as (
  delete from queue q using job where q.job_id = job.id and job.status = 'failed'
),
waiting as (
  update queue q
     set machine_id = null, holder_group = null, claim_id = null, heartbeat = null, banned = true, blocked_since = null
    from job
   where q.job_id = job.id
     and job.status <> 'failed'
),
ended as (
  insert into attempts (job_id, number, machine_id, container_group, last_heartbeat, ended, outcome, exit_code, reason,
                        output, detail)
  select job_id, attempt, machine_id, holder_group, heartbeat, now(), 'failed', %(exit_code)s, %(reason)s,
         %(output)s, %(detail)s
    from held
   where machine_id is not null
      on conflict (job_id, number) do update
     set ended = excluded.ended, outcome = excluded.outcome, last_heartbeat = excluded.last_heartbeat,
         exit_code = excluded.exit_code, reason = excluded.reason, output = excluded.output,
         detail = excluded.detail
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job.id, kind, %(actor)s, job.attempt,
         jsonb_build_object('machine_id', %(machine_id)s::text, 'exit_code', %(exit_code)s::integer,
                            'reason', %(reason)s::text, 'num_failures', job.num_failures)
    from job
   cross join lateral (values ('attempt_failed', true), ('failed', job.status = 'failed')) as e (kind, happened)
   where happened
),
hooked as (
  insert into webhooks (job_id, url, status, machine_id, container_group, sealed_key)
  select id, webhook, 'failed', %(machine_id)s, %(container_group)s, %(sealed_key)s::bytea
    from job
   where webhook is not null
     and status = 'failed'
)
select status from job;

-- name: release_job
-- A worker gives its job back: no failure, no ban; any holder may have it at once. No row: refused.
with held as (
  select * from queue
   where job_id = %(job_id)s
     and (%(scope)s::bigint is null or tenant_id = %(scope)s)
     and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
     and machine_id = %(machine_id)s
     and (%(attempt)s::integer is null or attempt = %(attempt)s)
     for update
),
job as (
  update jobs j
     set heartbeat = h.heartbeat, num_heartbeats = h.num_heartbeats
    from held h
   where j.id = h.job_id
  returning j.id, j.attempt, j.status
),
waiting as (
  update queue q
     set machine_id = null, holder_group = null, claim_id = null, heartbeat = null
    from held h
   where q.job_id = h.job_id
),
ended as (
  insert into attempts (job_id, number, machine_id, container_group, last_heartbeat, ended, outcome, exit_code, reason,
                        detail)
  select job_id, attempt, machine_id, holder_group, heartbeat, now(), 'released', %(exit_code)s, %(reason)s,
         %(detail)s
    from held
   where machine_id is not null
      on conflict (job_id, number) do update
     set ended = excluded.ended, outcome = excluded.outcome, last_heartbeat = excluded.last_heartbeat,
         exit_code = excluded.exit_code, reason = excluded.reason, detail = excluded.detail
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select id, 'released', %(actor)s, attempt,
         jsonb_build_object('machine_id', %(machine_id)s::text, 'reason', %(reason)s::text)
    from job
)
select status from job;

-- name: cancel_job
-- End a job that is not final yet. No row: it was final already, or is not this caller's.
with held as (
  delete from queue
   where job_id = %(job_id)s
     and (%(scope)s::bigint is null or tenant_id = %(scope)s)
     and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
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
  insert into attempts (job_id, number, machine_id, container_group, last_heartbeat, ended, outcome)
  select job_id, attempt, machine_id, holder_group, heartbeat, now(), 'canceled'
    from held
   where machine_id is not null
      on conflict (job_id, number) do update
     set ended = excluded.ended, outcome = excluded.outcome, last_heartbeat = excluded.last_heartbeat
),
told as (
  insert into events (job_id, kind, actor, attempt)
  select id, 'canceled', %(actor)s, attempt from job
)
select status from job;

-- name: lines_of_group
-- The lines of the queue that hold jobs of a container group which the caller may touch, and how far each reaches now.
select tenant_id, max(seq) as last_seq
  from queue
 where (%(scope)s::bigint is null or tenant_id = %(scope)s)
   and (%(groups)s::text[] is null or container_group = any (%(groups)s))
   and container_group = %(container_group)s
 group by tenant_id;

-- name: remove_pending_jobs
-- The next few jobs of a line that were never handed out, removed with their history. One that is claimed meanwhile is
-- left for cancel_jobs. Asked anew behind `after_seq`, so that no round looks again at the entries of those removed before.
with held as materialized (
  select job_id, seq
    from queue
   where tenant_id = %(tenant_id)s
     and container_group = %(container_group)s
     and machine_id is null
     and rank = 1
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
-- End the next few jobs of a line that were handed out, whether somebody holds them or not.
with held_by_a_machine as materialized (
  select *
    from queue
   where tenant_id = %(tenant_id)s
     and container_group = %(container_group)s
     and machine_id is not null
     and seq <= %(last_seq)s
   order by seq
   limit %(most)s
     for update
),
waiting as materialized (
  select *
    from queue
   where tenant_id = %(tenant_id)s
     and container_group = %(container_group)s
     and machine_id is null
     and rank = 0
     and seq <= %(last_seq)s
   order by seq
   limit %(most)s
     for update
),
held as materialized (
  select * from held_by_a_machine union all select * from waiting
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
  insert into attempts (job_id, number, machine_id, container_group, last_heartbeat, ended, outcome)
  select job_id, attempt, machine_id, holder_group, heartbeat, now(), 'canceled'
    from held
   where machine_id is not null
      on conflict (job_id, number) do update
     set ended = excluded.ended, outcome = excluded.outcome, last_heartbeat = excluded.last_heartbeat
),
told as (
  insert into events (job_id, kind, actor, attempt)
  select id, 'canceled', %(actor)s, attempt from job order by seq
)
select count(*) as count from job;

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
       exists (select from bans b where b.job_id = j.id and b.machine_id = %(machine_id)s) as banned,
       coalesce(j.machine_id = %(machine_id)s, false) as touched_last
  from jobs j
 where j.id = %(job_id)s
   and (%(scope)s::bigint is null or j.tenant_id = %(scope)s)
   and (%(groups)s::text[] is null
        or coalesce(j.container_group, '') = any (%(groups)s)
        or exists (select from attempts a where a.job_id = j.id and a.container_group = any (%(groups)s)));

-- name: get_job
select id, user_id, status, created, started, completed, canceled, failed,
       command, arguments, environment, sync,
       input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
       compression, max_failures, heartbeat_interval, webhook,
       heartbeat, num_failures, num_heartbeats, container_group_id, machine_id, attempt,
       (select q.checkpoint_lag from queue q where q.job_id = id) as checkpoint_lag
  from shown_jobs
 where id = %(job_id)s
   and (%(scope)s::bigint is null or tenant_id = %(scope)s)
   and (%(groups)s::text[] is null
        or coalesce(container_group_id, '') = any (%(groups)s)
        or exists (select from attempts a where a.job_id = shown_jobs.id and a.container_group = any (%(groups)s)));

-- name: list_jobs_newest_first
-- The conditions that repeat the status in other words lead to the indexes that know it.
select id, user_id, status, created, started, completed, canceled, failed,
       command, arguments, environment, sync,
       input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
       compression, max_failures, heartbeat_interval, webhook,
       heartbeat, num_failures, num_heartbeats, container_group_id, machine_id, attempt, seq,
       octet_length(arguments::text) + octet_length(environment::text) + coalesce(octet_length(sync::text), 0) as bytes
  from shown_jobs
 where (%(scope)s::bigint is null or tenant_id = %(scope)s)
   and (%(groups)s::text[] is null or coalesce(container_group_id, '') = any (%(groups)s))
   and (%(status)s::job_status is null or status = %(status)s)
   and (%(status)s::text is distinct from 'failed' or failed is not null)
   and (%(status)s::text is distinct from 'canceled' or canceled is not null)
   and (coalesce(%(status)s::text, '') not in ('pending', 'running') or queued is not null)
   and (%(container_group)s::text is null or container_group_id = %(container_group)s)
   and (%(beyond)s::bigint is null or seq < %(beyond)s)
 order by seq desc
 limit %(most)s
offset %(skipped)s;

-- name: list_jobs_oldest_first
select id, user_id, status, created, started, completed, canceled, failed,
       command, arguments, environment, sync,
       input_bucket, input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
       compression, max_failures, heartbeat_interval, webhook,
       heartbeat, num_failures, num_heartbeats, container_group_id, machine_id, attempt, seq,
       octet_length(arguments::text) + octet_length(environment::text) + coalesce(octet_length(sync::text), 0) as bytes
  from shown_jobs
 where (%(scope)s::bigint is null or tenant_id = %(scope)s)
   and (%(groups)s::text[] is null or coalesce(container_group_id, '') = any (%(groups)s))
   and (%(status)s::job_status is null or status = %(status)s)
   and (%(status)s::text is distinct from 'failed' or failed is not null)
   and (%(status)s::text is distinct from 'canceled' or canceled is not null)
   and (coalesce(%(status)s::text, '') not in ('pending', 'running') or queued is not null)
   and (%(container_group)s::text is null or container_group_id = %(container_group)s)
   and (%(beyond)s::bigint is null or seq > %(beyond)s)
 order by seq
 limit %(most)s
offset %(skipped)s;

-- name: list_attempts
-- Every handout of a job, first to last; the last heartbeat of a live attempt stands in the queue.
select a.number, a.machine_id, a.container_group as container_group_id, a.claimed,
       coalesce(a.last_heartbeat, q.heartbeat) as last_heartbeat,
       a.ended, a.outcome, a.exit_code, a.reason, a.detail, a.output
  from attempts a
  left join queue q on q.job_id = a.job_id and q.attempt = a.number
 where a.job_id = %(job_id)s
 order by a.number;

-- name: list_events
select id, at, kind, actor, attempt, detail
  from events
 where job_id = %(job_id)s
 order by id;

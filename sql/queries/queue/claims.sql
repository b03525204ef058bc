-- Statements of a worker that asks for work or holds a job. Each takes the job's row in queue first.
--
-- `scope` and `groups` are the rows that the caller may touch: those of one tenant (null: of all), and of these only
-- the jobs of some container groups, '' being the null group, or held on behalf of one of them (null: of all).
--
-- A statement that waited for that row sees it as it is now, but every other table as it was when the statement began: an
-- attempt that a claim opened in between is invisible to an update. The trigger of attempt_ends sees it.

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
select *
  from claimed_job(%(tenant_id)s, %(container_group)s, %(machine_id)s, %(claim_id)s, %(actor)s, %(sealed_key)s, %(lines)s,
                   %(speaks)s, %(user_id)s);

-- name: park_unsealable
-- The coordinator takes a job back right after its handout, since its environment or a secret cannot be opened: no failure, no
-- ban, and no end, whatever its limits; it is parked until it can be.
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
         ends_on_lapse = false, parked = with_reason(coalesce(q.parked, '{}'), 'unsealable')
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
-- Renew a lease that its holder still has, and keep what it says of the job; what is answered, and why it is a function, stands in
-- functions/renew_lease.sql. No row: the caller does not hold this job.
select *
  from renew_lease(%(job_id)s, %(scope)s, %(groups)s, %(machine_id)s, %(attempt)s, %(checkpoint_lag)s::integer,
                   %(phase)s, %(fraction)s, %(said)s::json, %(point)s::json, %(output_bytes)s::bigint);

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

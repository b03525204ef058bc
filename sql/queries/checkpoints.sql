-- Statements on the manifests of checkpoints. Like every transition they take the job's row in queue first.

-- name: keep_checkpoint
-- Keep the manifest of a generation, from the holder only, and of the older ones the newest. The same generation again
-- replaces what was said of it; one that is older than what is known writes nothing. The newest generation of the
-- attempt is answered. No row: refused, nothing was written.
with held as (
  select job_id, attempt
    from queue
   where job_id = %(job_id)s
     and (%(scope)s::bigint is null or tenant_id = %(scope)s)
     and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
     and machine_id = %(machine_id)s
     and attempt = %(attempt)s::integer
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
  insert into checkpoints (job_id, attempt, generation, files)
  select h.job_id, h.attempt, %(generation)s::bigint, %(files)s::jsonb
    from held h
   cross join newest n
   where n.generation <= %(generation)s::bigint
      on conflict (job_id, attempt, generation) do update
     set files = excluded.files, reported = excluded.reported
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

-- name: tell_resumed
-- How an attempt found the newest manifest when it began, from the holder only. No row: refused.
with held as (
  select job_id, attempt
    from queue
   where job_id = %(job_id)s
     and (%(scope)s::bigint is null or tenant_id = %(scope)s)
     and (%(groups)s::text[] is null or container_group = any (%(groups)s) or holder_group = any (%(groups)s))
     and machine_id = %(machine_id)s
     and attempt = %(attempt)s::integer
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

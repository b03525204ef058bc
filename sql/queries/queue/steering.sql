-- What users wish of jobs and container groups, one by one and many at once. Each takes the job's row in queue first.
--
-- `scope` and `groups` are the rows that the caller may touch: those of one tenant (null: of all), and of these only
-- the jobs of some container groups, '' being the null group, or held on behalf of one of them (null: of all).

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
banned as (
  insert into bans (job_id, machine_id, reason)
  select h.job_id, h.machine_id, 'interrupt'
    from held h
   where %(ban_too)s
     and h.holder = 'live'
     and h.steers
      on conflict do nothing
  returning job_id
),
wished as (
  update queue q
     set wish = case when h.is_new then %(wish)s else q.wish end,
         wished_at = case when h.is_new then now() else q.wished_at end,
         wish_by = case when h.is_new then %(actor)s else q.wish_by end,
         ends_on_lapse = q.ends_on_lapse or h.is_new is true,
         banned = q.banned or exists (select from banned)
    from held h
   where q.job_id = h.job_id
     and (h.is_new or exists (select from banned))
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
select holder, steers, sweep_id,
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
         ends_on_lapse = q.machine_id is not null
                         and (coalesce(q.attempt >= q.ends_from_attempt, false) or q.ends_on_lapse and q.sweep_id is not null)
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
select did, sweep_id from held;

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
-- without a holder for end_attempts, which must follow; of one that is held the time counts from its handout. A mark that the
-- limit of a sweep set stays, here and where a job is resumed; end_attempts judges at the lapse.
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
     set rank = claim_order(%(priority)s::integer, q.rank & 1 = 1),
         ends_from_attempt = ends_from_attempt(j.options),
         attempt_seconds = n.attempt_seconds,
         seconds_left = n.seconds_left,
         deadline = case when q.machine_id is not null
                         then u.claimed + least(n.attempt_seconds, n.seconds_left) * interval '1 second'
                    end,
         ends_on_lapse = case when q.machine_id is not null
                              then q.wish is not null or coalesce(q.attempt >= ends_from_attempt(j.options), false)
                                   or q.ends_on_lapse and q.sweep_id is not null
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
   where q.job_id = any (array(select job_id from due))
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
-- `sweeps` are those in which slots came free.
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
  delete from queue q where q.job_id = any (array(select job_id from held))
  returning q.sweep_id, q.parked
),
removed as (
  delete from jobs j where j.id = any (array(select job_id from held))
  returning j.seq
)
select count(*) as count, max(seq) as last_seq,
       (select array_remove(array_agg(distinct case when parked is null then sweep_id end), null) from gone) as sweeps
  from removed;

-- name: cancel_jobs
-- End the next few jobs of a line that were handed out, with a holder or without. `sweeps` are those in which slots came free.
-- The rows of jobs are found by their ids as an array: joined alone, all of them might be read.
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
  delete from queue q where q.job_id = any (array(select job_id from held))
),
job as (
  update jobs j
     set status = 'canceled', canceled = now(), num_heartbeats = h.num_heartbeats,
         heartbeat = coalesce(h.heartbeat, j.heartbeat)
    from held h
   where j.id = any (array(select job_id from held))
     and j.id = h.job_id
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
select count(*) as count,
       (select array_remove(array_agg(distinct case when parked is null then sweep_id end), null) from held) as sweeps
  from job;

-- Changes of jobs by their numbers, which come in order, so that two of these statements lock them in the same one. Their rows are then
-- found by the ids as an array: joined, all of the queue might be read, where the planner believes that it is empty still.

-- name: cancel_many
-- End jobs of the queue, with a holder or without. `sweeps` are those in which slots came free.
with held as materialized (
  select q.*
    from ids_of_numbers(%(numbers)s) n
   cross join lateral (
         select * from queue where queue.job_id = n.job_id and in_reach(queue, %(scope)s, %(groups)s) for update) q
),
gone as (
  delete from queue q where q.job_id = any (array(select job_id from held))
),
job as (
  update jobs j
     set status = 'canceled', canceled = now(), num_heartbeats = h.num_heartbeats,
         heartbeat = coalesce(h.heartbeat, j.heartbeat)
    from held h
   where j.id = any (array(select job_id from held))
     and j.id = h.job_id
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
select (select count(*) from job) as count,
       array(select distinct sweep_id from held where sweep_id is not null and parked is null) as sweeps;

-- name: hold_many
-- Park jobs of the queue; of those that a machine holds it is wished, unless a stronger wish stands there. `count` are all that
-- are held then, or will be; `sweeps` are those in which slots came free.
with held as materialized (
  select q.*
    from ids_of_numbers(%(numbers)s) n
   cross join lateral (
         select * from queue where queue.job_id = n.job_id and in_reach(queue, %(scope)s, %(groups)s) for update) q
),
wished as (
  update queue q
     set wish = 'hold', wished_at = now(), wish_by = %(actor)s, ends_on_lapse = true
   where q.job_id = any (array(
           select job_id from held where machine_id is not null and coalesce(wish not in ('hold', 'cancel'), true)))
  returning q.job_id, q.attempt, q.machine_id
),
parked as (
  update queue q
     set parked = with_reason(q.parked, 'hold')
   where q.job_id = any (array(
           select job_id from held where machine_id is null and coalesce('hold' <> all (parked), true)))
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
   where j.id = any (array(select job_id from parked))
     and is_told(j.webhook, j.options, 'held')
)
select (select count(*) from held where wish is distinct from 'cancel') as count,
       array(select distinct sweep_id from held where sweep_id is not null and machine_id is null and parked is null) as sweeps;

-- name: resume_many
-- Let held jobs of the queue be claimed again, and those that wait after a failure at once; a wish to hold one is withdrawn.
-- `sweeps` are those of jobs that may need a slot now.
with held as materialized (
  select q.*
    from ids_of_numbers(%(numbers)s) n
   cross join lateral (
         select * from queue where queue.job_id = n.job_id and in_reach(queue, %(scope)s, %(groups)s) for update) q
),
did as (
  select job_id
    from held
   where case when machine_id is null then parked && array['hold', 'backoff'] and not ends_on_lapse else wish = 'hold' end
),
resumed as (
  update queue q
     set parked = without_reason(without_reason(q.parked, 'hold'), 'backoff'), backoff_until = null,
         fruitful_attempt = q.attempt, wish = null, wished_at = null, wish_by = null,
         ends_on_lapse = q.machine_id is not null
                         and (coalesce(q.attempt >= q.ends_from_attempt, false) or q.ends_on_lapse and q.sweep_id is not null)
   where q.job_id = any (array(select job_id from did))
  returning q.job_id, q.attempt, q.sweep_id, q.machine_id is null as unparked
),
job as (
  update jobs set reason = null where id = any (array(select job_id from resumed)) and reason is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select job_id, case when unparked then 'unparked' else 'asked' end, %(actor)s, attempt,
         case when unparked then '{"parked": "hold"}'::jsonb else '{"withdrawn": "hold"}' end
    from resumed
)
select (select count(*) from resumed) as count,
       array(select distinct sweep_id from resumed where sweep_id is not null and unparked) as sweeps;

-- name: purge_jobs
-- The jobs of all tenants; the tables are named in lock order.
truncate queue, jobs, attempts, checkpoints, checkpoint_marks, bans, events, webhooks, deliveries, submissions, lapse_horizons, machines,
  sweeps, incomplete_sweeps, dependencies, dependency_endings, reallocations, usage_of_days, usage_to_add;

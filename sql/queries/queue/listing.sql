-- Statements that read jobs, their attempts, events, progress and output.
--
-- `scope` and `groups` are the rows that the caller may touch: those of one tenant (null: of all), and of these only
-- the jobs of some container groups, '' being the null group, or held on behalf of one of them (null: of all).

-- name: get_job
select (s.job).*, s.checkpoint_generation, s.checkpoint_at, s.checkpoint_bytes, s.said, s.said_at, s.said_fraction,
       s.changed_at, s.first_fraction, s.first_at, s.is_live, s.checkpoint_lag
  from described_job(%(job_id)s, %(scope)s, %(groups)s) s;

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
  from ids_of_numbers(%(numbers)s) page
 cross join lateral (select id, status from jobs where id = page.job_id limit 1) j
 order by page.place;

-- name: count_open
-- The open jobs that match; see functions/count_open_jobs.sql.
select count_open_jobs(%(scope)s, %(groups)s, %(wanted)s::jsonb) as count;

-- name: digest_of_jobs
-- How jobs are: a digest of all that users see change, but heartbeats and progress.
select now() as at,
       md5(string_agg(concat_ws(' ', (d.job).id, (d.job).status, (d.job).phase, (d.job).parked, (d.job).attempt,
                                (d.job).num_failures, (d.job).machine_id, (d.job).reason, (d.job).priority, (d.job).name,
                                (d.job).labels), '; ' order by (d.job).seq)) as digest
  from described_jobs(%(numbers)s) d;

-- name: changed_jobs
-- Those of some jobs that may have changed since a time: by an event, or silent, which is a change without one.
select page.seq
  from ids_of_numbers(%(numbers)s) page
 where (select e.at from events e where e.job_id = page.job_id order by e.id desc limit 1) >= %(since)s
    or exists (select from queue q
                where q.job_id = page.job_id
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
-- Have the holder send its output every second for the next 50 seconds; written every 15 seconds at most, so that it lasts for
-- longer than a reader waits (30 seconds). Not beyond `most` jobs of a tenant, nor where the attempt is over or its worker sends
-- none. A row: it is watched. Of a held job it is asked so that the planner goes to it, see functions/held_by.sql.
with live as (
  select job_id, tenant_id, watched_until
    from queue
   where job_id = %(job_id)s
     and attempt = %(attempt)s
     and coalesce(machine_id, '') <> ''
     and 'output' = any (speaks)
),
noted as (
  update queue q
     set watched_until = now() + interval '50 seconds'
    from live l
   where q.job_id = l.job_id
     and q.attempt = %(attempt)s
     and coalesce(q.machine_id, '') <> ''
     and coalesce(q.watched_until, '-infinity') < now() + interval '35 seconds'
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
select job_id from live where watched_until >= now() + interval '35 seconds';

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
   and coalesce(machine_id, '') = %(machine_id)s
   and holder_group = %(container_group)s;

-- name: list_events
select id, at, kind, actor, attempt, detail
  from events
 where job_id = %(job_id)s
   and id > %(after)s
 order by id
 limit %(most)s;

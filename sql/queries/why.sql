-- Why a job is not running.

-- name: facts_of_job
-- What is known of a job that is not final and might run. Its row is found by its id, each of the others by an index. No row: it is final.
select q.container_group, q.machine_id, q.holder_group, q.heartbeat, q.heartbeat_interval, q.attempt, q.rank & 1 = 1 as is_new,
       q.ends_on_lapse, q.wish, q.wish_by, q.parked, q.backoff_until, q.waits_for, q.sweep_id, q.banned, p.phase,
       now() as at,
       j.reason, j.num_failures, j.max_failures,
       q.machine_id is not null and lapsed(q.heartbeat, q.heartbeat_interval) as has_lapsed,
       q.heartbeat + 2 * q.heartbeat_interval * interval '1 second' < now() as is_silent,
       case when q.heartbeat is not null
            then nullif(greatest(q.heartbeat, silence_counts_from(q.heartbeat_interval)), 'infinity')
                 + 2 * q.heartbeat_interval * interval '1 second'
       end as lapses_at,
       g.since as paused_since, g.by as paused_by,
       (select max(s.until)
          from stopping_groups s
         where s.container_group in (claims_name(q.tenant_id, q.container_group), q.container_group)
           and q.container_group <> ''
           and s.until > now()) as stopping_until,
       array(select m.id from live_machines(q.tenant_id, q.container_group) as m (id) order by m.id limit 1000) as machines,
       array(select b.machine_id from bans b where b.job_id = q.job_id order by b.machine_id limit 1000) as banned_machines,
       array(select l.machine_id
               from pauses l
              where l.job_id = q.job_id
                and l.machine_id <> ''
                and l.until > now()
              order by l.machine_id) as waiting_machines,
       (select l.until from pauses l where l.job_id = q.job_id and l.machine_id = '' and l.until > now()) as waits_until,
       w.max_parallel,
       (select count(*)
          from (select from queue o where o.sweep_id = q.sweep_id and o.parked is null limit w.max_parallel) o) as slots_taken,
       array(select coalesce(d.on_job, d.on_sweep) from dependencies d where d.job_id = q.job_id limit 3) as depends_on,
       (select d.on_sweep
          from dependencies d
          join sweeps s on s.id = d.on_sweep
         where d.job_id = q.job_id
           and s.closed is null
         limit 1) as on_open_sweep,
       n.own, n.of_null_group, n.of_higher_priority
  from queue q
  join jobs j on j.id = q.job_id
  join job_phases p on p.job_id = q.job_id
  left join paused_groups g on g.tenant_id = q.tenant_id and g.container_group = lower(q.container_group)
  left join sweeps w on w.id = q.sweep_id
 cross join lateral place_in_line(q.tenant_id, q.container_group, q.rank, q.seq, %(most)s) n
 where q.job_id = %(job_id)s;

-- name: last_attempt
select number, machine_id, outcome, ended, exit_code, reason
  from attempts
 where job_id = %(job_id)s
   and ended is not null
 order by number desc
 limit 1;

-- name: last_decision
-- The rule of a container group, and what its last run made of it.
select r.min_replicas, r.max_replicas, d.at, d.observed_state, d.observed_replicas, d.observed_running,
       d.observed_allocating, d.desired_replicas, d.action, d.error
  from scaling_rules r
  left join lateral (
       select * from scaling_decisions d where d.container_group_id = r.container_group_id order by d.id desc limit 1) d on true
 where r.container_group_id::text = lower(%(container_group)s)
   and of_tenant(r.tenant_id, %(scope)s);

-- Statements on machines, and on those that are to be sent away. Their bans are counted by fail_job in reports.sql, which
-- writes the reallocation too.

-- name: see_machines
-- Those that asked for work or reported since the last time; other processes may have seen them as well. A tenant has
-- `most` rows at the most (0: any number), since callers choose the names: the rest of its new machines is not written,
-- and counted here.
with seen as materialized (
  select tenant_id, container_group, machine_id,
         exists (select
                   from machines m
                  where m.tenant_id = s.tenant_id
                    and m.container_group = s.container_group
                    and m.machine_id = s.machine_id) as known
    from unnest(%(tenant_ids)s::bigint[], %(container_groups)s::text[], %(machine_ids)s::text[])
      as s (tenant_id, container_group, machine_id)
),
room as materialized (
  select tenant_id,
         %(most)s::integer - (select count(*)
                                from (select from machines m where m.tenant_id = t.tenant_id limit %(most)s) n) as free
    from (select distinct tenant_id from seen where not known) t
),
new as materialized (
  select s.tenant_id, s.container_group, s.machine_id,
         %(most)s::integer = 0
         or row_number() over (partition by s.tenant_id order by s.container_group, s.machine_id) <= r.free as fits
    from seen s
    join room r using (tenant_id)
   where not s.known
),
written as (
  insert into machines (tenant_id, container_group, machine_id)
  select tenant_id, container_group, machine_id
    from (select tenant_id, container_group, machine_id from seen where known
           union all
          select tenant_id, container_group, machine_id from new where fits) noted
   order by tenant_id, container_group, machine_id
      on conflict (tenant_id, container_group, machine_id) do update
     set last_seen = now()
   where machines.last_seen < now() - interval '5 seconds'
)
select tenant_id, count(*) as left_out from new where not fits group by tenant_id order by tenant_id;

-- name: make_room_for_machines
-- Of tenants whose machines are too many those go that were not heard of for a day.
delete from machines
 where (tenant_id, container_group, machine_id) in (
       select tenant_id, container_group, machine_id
         from machines
        where tenant_id = any (%(tenant_ids)s::bigint[])
          and last_seen < now() - interval '1 day'
        order by tenant_id, container_group, machine_id
          for update skip locked);

-- name: list_machines
-- By group and id, from just after one of them or with some skipped. Of the jobs that a machine holds no more than
-- `most_jobs` are shown: callers choose the names of machines, and one of them may hold the whole queue. What is counted of a
-- machine is from the totals of the last 30 days (UTC), today included; attempts of the last seconds may be missing there.
with page as materialized (
  select tenant_id, container_group, machine_id, last_seen, bans, counted_bans
    from machines
   where of_tenant(tenant_id, %(scope)s)
     and of_group(container_group, %(groups)s)
     and (%(container_group)s::text is null or container_group = %(container_group)s)
     and (%(after_tenant)s::bigint is null
          or (tenant_id, container_group, machine_id)
             > (%(after_tenant)s::bigint, %(after_group)s::text, %(after_machine)s::text))
   order by tenant_id, container_group, machine_id
   limit %(most)s
  offset %(skipped)s
),
held as materialized (
  select tenant_id, holder_group, machine_id, (array_agg(job_id order by seq))[:%(most_jobs)s::integer] as job_ids, max(heartbeat) as heartbeat
    from queue
   where machine_id is not null
     and of_tenant(tenant_id, %(scope)s)
   group by tenant_id, holder_group, machine_id
)
select p.tenant_id, p.container_group as container_group_id, p.machine_id,
       greatest(p.last_seen, h.heartbeat) as last_seen, coalesce(h.job_ids, '{}') as job_ids, p.bans, p.counted_bans,
       u.interruptions, u.failures, u.useful_share
  from page p
  left join held h on h.tenant_id = p.tenant_id and h.holder_group = p.container_group and h.machine_id = p.machine_id
 cross join lateral (
       select coalesce(sum(attempts) filter (where outcome = 'interrupted'), 0)::bigint as interruptions,
              coalesce(sum(attempts) filter (where outcome = 'failed'), 0)::bigint as failures,
              sum(useful) / nullif(sum(useful + lost), 0) as useful_share
         from usage_of_days d
        where d.tenant_id = p.tenant_id
          and d.container_group = p.container_group
          and d.machine_id = p.machine_id
          and d.day > (now() at time zone 'UTC')::date - 30) u
 order by p.tenant_id, p.container_group, p.machine_id;

-- name: list_reallocations
-- The newest of each machine first.
select r.tenant_id, r.container_group as container_group_id, r.machine_id, r.id, r.created,
       coalesce(r.outcome, 'pending') as state, r.tries, r.next_try, r.ended, r.last_error as error
  from unnest(%(tenant_ids)s::bigint[], %(container_groups)s::text[], %(machine_ids)s::text[])
    as m (tenant_id, container_group, machine_id)
 cross join lateral (
       select *
         from reallocations r
        where r.tenant_id = m.tenant_id
          and r.container_group = m.container_group
          and r.machine_id = m.machine_id
        order by r.id desc
        limit 20) r
 order by r.id desc;

-- name: machines_that_block
-- The live machines of a job that waits, if it is banned from all of them. No row: it is not, or there are none.
select array_agg(m.id order by m.id) as machine_ids
  from queue q
 cross join lateral live_machines(q.tenant_id, q.container_group) as m (id)
 where q.job_id = %(job_id)s
   and q.banned
   and q.machine_id is null
   and q.parked is null
having bool_and(exists (select from bans b where b.job_id = q.job_id and b.machine_id = m.id offset 0));

-- name: note_blocked_jobs
-- Write an event where a job became blocked, once until it is so no more. A job whose row is locked is left to the
-- next look. Found by the index of banned jobs: of those that can be claimed there may be a million.
with lines as materialized (
  select distinct tenant_id, container_group from queue where banned and num_nonnulls(machine_id, parked) = 0
),
live as materialized (
  select l.tenant_id, l.container_group, m.id as machine_id
    from lines l
   cross join lateral live_machines(l.tenant_id, l.container_group) as m (id)
),
blocked as materialized (
  select q.job_id
    from queue q
   where q.banned
     and num_nonnulls(q.machine_id, q.parked) = 0
     and exists (select from live l where l.tenant_id = q.tenant_id and l.container_group = q.container_group)
     and not exists (
         select from live l
          where l.tenant_id = q.tenant_id
            and l.container_group = q.container_group
            and not exists (select from bans b where b.job_id = q.job_id and b.machine_id = l.machine_id))
),
became as materialized (
  select job_id, attempt, tenant_id, container_group
    from queue
   where banned
     and blocked_since is null
     and num_nonnulls(machine_id, parked) = 0
     and job_id in (select job_id from blocked)
     for update skip locked
),
noted as (
  update queue q set blocked_since = now() where q.job_id = any (array(select job_id from became))
),
over as materialized (
  select job_id
    from queue
   where banned
     and blocked_since is not null
     and job_id not in (select job_id from blocked)
     for update skip locked
),
cleared as (
  update queue q set blocked_since = null where q.job_id = any (array(select job_id from over))
)
insert into events (job_id, kind, actor, attempt, detail)
select b.job_id, 'blocked', 'coordinator', b.attempt,
       jsonb_build_object('machines', (
         select jsonb_agg(l.machine_id order by l.machine_id)
           from live l
          where l.tenant_id = b.tenant_id and l.container_group = b.container_group))
  from became b;

-- name: take_reallocation
-- The one that is due longest, where its machine may be found, and whether it holds a live lease. Its next try moves
-- into the future, so that no other process takes it and it is not lost if this one dies. Only a rule of the same
-- tenant may name the organization: ids of groups are what callers say.
with due as materialized (
  select id
    from reallocations
   where next_try <= now()
   order by next_try
   limit 1
     for update skip locked
),
taken as (
  update reallocations r
     set tries = r.tries + 1, next_try = now() + %(hold)s::interval
    from due
   where r.id = due.id
  returning r.*
)
select r.id, r.container_group, r.machine_id, r.tries, now() - r.created as age, place.organization, place.project,
       exists (select
                 from queue q
                where q.machine_id is not null
                  and q.tenant_id in (select tenants_of_project(r.tenant_id, place.organization, place.project))
                  and lower(q.machine_id) = lower(r.machine_id)
                  and lower(q.holder_group) = lower(r.container_group)
                  and not lapsed(q.heartbeat, q.heartbeat_interval)) as busy
  from taken r
  join tenants t on t.id = r.tenant_id
  join users u on u.id = t.user_id
  left join scaling_rules s on s.tenant_id = r.tenant_id and s.container_group_id::text = lower(r.container_group)
 cross join lateral (
       select coalesce(s.org_name, nullif(r.org_name, ''),
                       (select k.org_name from api_keys k where k.tenant_id = r.tenant_id order by k.created desc limit 1),
                       u.username) as organization,
              coalesce(s.project_name, t.project) as project) place;

-- name: end_reallocation
-- Like the next, nothing is written if another process has it meanwhile, for this one held it too long.
update reallocations
   set ended = now(), outcome = %(outcome)s, next_try = null, last_error = %(error)s
 where id = %(id)s
   and tries = %(tries)s
   and ended is null;

-- name: postpone_reallocation
update reallocations
   set next_try = now() + %(pause)s::interval, last_error = %(error)s
 where id = %(id)s
   and tries = %(tries)s
   and ended is null;

-- name: count_due_reallocations
select count(*) as due from reallocations where next_try is not null;

-- name: give_up_reallocations
-- Those that could not be tried.
update reallocations
   set ended = now(), outcome = 'given_up', next_try = null, last_error = %(error)s
 where next_try <= now()
   and created < now() - %(age)s::interval;

-- name: prune_machines
-- One that comes back is noted anew, with no bans counted.
with old as materialized (
  select tenant_id, container_group, machine_id
    from machines
   where last_seen < now() - %(older_than)s::interval
   limit %(batch)s
     for update skip locked
)
delete from machines m
 using old
 where (m.tenant_id, m.container_group, m.machine_id) = (old.tenant_id, old.container_group, old.machine_id);

-- name: prune_reallocations
delete from reallocations
 where id = any (array(
       select id
         from reallocations
        where ended < now() - %(older_than)s::interval
        limit %(batch)s
          for update skip locked));

-- Statements of the pages at /ui. What they show besides they read as the routes do.

-- name: count_phases
-- How many open jobs are in which phase. The phase of one is that of all that agree in what decides it: their group, whether they
-- are parked, and whether they were handed out before; of those that a machine holds what it said, and whether it is silent for the
-- two intervals of the lease. Whether such a silence counts is read from two tables, which took half a second for ten thousand.
with alike as materialized (
  select min(seq) as seq, count(*) as jobs
    from queue
   where machine_id is null
     and of_tenant(tenant_id, %(scope)s)
     and of_group(container_group, %(groups)s)
   group by tenant_id, container_group, parked is null, rank & 1
   union all
  select min(seq), count(*)
    from queue
   where machine_id is not null
     and of_tenant(tenant_id, %(scope)s)
     and of_group(container_group, %(groups)s)
   group by tenant_id, container_group, rank & 1, phase, heartbeat_interval,
            heartbeat + 2 * heartbeat_interval * interval '1 second' < now()
)
select p.phase, sum(a.jobs)::bigint as jobs
  from alike a
  join ids_of_numbers(array(select seq from alike)) j on j.seq = a.seq
 cross join lateral (select phase from job_phases where job_phases.job_id = j.job_id limit 1) p
 group by p.phase;

-- name: needs_a_person
-- Jobs that go on only once a person does something, or whose owner ought to know, each kind with its number and the newest of them:
-- those that are held, those that are banned from all machines of their group, those that failed since `since`, those that began an
-- attempt from a torn checkpoint since then, and those of which a webhook is not delivered. Numbers beyond `most` are `most` and one,
-- and of the last two kinds, whose jobs have to be looked up, beyond `few`. Each kind is read from an index of its own, so a long
-- history costs nothing.
with held as (
  select 'held' as kind, job_id, seq
    from queue
   where of_tenant(tenant_id, %(scope)s)
     and parked is not null
     and 'hold' = any (parked)
   order by seq desc
   limit %(most)s + 1
),
blocked as (
  select 'blocked' as kind, job_id, seq
    from queue
   where banned
     and blocked_since is not null
     and machine_id is null
     and of_tenant(tenant_id, %(scope)s)
   order by seq desc
   limit %(most)s + 1
),
torn as (
  select distinct 'torn' as kind, j.id as job_id, j.seq
    from (select job_id
            from events
           where kind = 'resumed'
             and detail ->> 'checkpoint' = 'torn'
             and at >= %(since)s
           order by at desc
           limit 2 * %(few)s) e
    join jobs j on j.id = e.job_id
   where of_tenant(j.tenant_id, %(scope)s)
   limit %(few)s + 1
),
undelivered as (
  select distinct 'webhooks' as kind, j.id as job_id, j.seq
    from ((select job_id
             from webhooks
            where next_try > now()
              and tries - tries_before > under_way::integer
              and user_id = %(user_id)s
            limit %(few)s + 1)
           union all
          (select job_id
             from webhooks
            where given_up >= %(since)s
              and user_id = %(user_id)s
            order by given_up desc
            limit %(few)s + 1)) w
    join jobs j on j.id = w.job_id
   where of_tenant(j.tenant_id, %(scope)s)
   limit %(few)s + 1
)
select kind, count(*) as jobs, (array_agg(job_id order by seq desc))[:%(named)s] as newest
  from (select * from held
         union all
        select * from blocked
         union all
        select * from torn
         union all
        select * from undelivered) found
 group by kind
 union all
select 'failed', count(*), '{}'
  from (select from jobs where of_tenant(tenant_id, %(scope)s) and failed >= %(since)s limit %(most)s + 1) failed;

-- name: usage_of_week
-- What attempts cost that ended on each day (UTC) since `first`: hours that were kept and lost, and money.
select day, sum(attempts)::bigint as attempts, sum(held) as held, sum(useful) as useful, sum(lost) as lost, sum(money) as money
  from (select day, attempts, held, useful, lost, money
          from usage_of_days
         where of_tenant(tenant_id, %(scope)s)
           and day >= %(first)s
         union all
        select day, 1, held, useful, lost, money
          from usage_to_add
         where of_tenant(tenant_id, %(scope)s)
           and day >= %(first)s) counted
 group by day
 order by day;

-- name: count_fleet
-- Machines that were heard of within ten minutes, those that hold a job, and how many the rules of container groups asked for in their
-- last runs (null: there are no rules).
select (select count(*)
          from machines
         where of_tenant(tenant_id, %(scope)s)
           and last_seen > now() - interval '10 minutes') as alive,
       (select sum(coalesce(d.desired_replicas, 0))::bigint
          from scaling_rules r
          left join lateral (
               select desired_replicas
                 from scaling_decisions d
                where d.tenant_id = r.tenant_id
                  and d.container_group_id = r.container_group_id
                order by d.id desc
                limit 1) d on true
         where of_tenant(r.tenant_id, %(scope)s)) as wanted;

-- name: newest_attempts
-- The newest attempts of a job, the last first, without what they printed.
select a.number, a.machine_id, a.container_group as container_group_id, a.claimed, a.ended, a.outcome, a.exit_code, a.reason,
       a.detail, a.held, a.useful, a.lost
  from attempts a
 where a.job_id = %(job_id)s
 order by a.number desc
 limit %(most)s;

-- name: sum_attempts
-- What the attempts of a job add up to: seconds and money of those that have ended. `unknown`: seconds of which it is not known
-- how much was lost.
select count(*) as attempts, count(*) filter (where outcome = 'interrupted') as interruptions,
       coalesce(sum(held), 0)::float8 as held, coalesce(sum(useful), 0)::float8 as useful, coalesce(sum(lost), 0)::float8 as lost,
       coalesce(sum(held) filter (where lost is null), 0)::float8 as unknown,
       sum(held * price_per_hour / 3600)::float8 as money, now() as at
  from attempts
 where job_id = %(job_id)s;

-- name: list_checkpoint_marks
-- When checkpoints were whole, from an attempt on.
select attempt, at
  from checkpoint_marks
 where job_id = %(job_id)s
   and attempt >= %(attempt)s
 order by attempt, at;

-- name: newest_events
select id, at, kind, actor, attempt
  from events
 where job_id = %(job_id)s
 order by id desc
 limit %(most)s;

-- name: newest_webhooks
-- The newest webhooks of a job, the last first, each with the answer to its last try.
select seq, id, status, event, url, created, tries, next_try, delivered, given_up, last_status, last_error,
       case when delivered is not null then 'delivered' when given_up is not null then 'given_up' else 'pending' end as state
  from webhooks
 where job_id = %(job_id)s
 order by seq desc
 limit %(most)s;

-- name: reported_output
-- The end of what an attempt printed, where its worker sent that with the report of its end.
select right(output, %(most)s) as output
  from attempts
 where job_id = %(job_id)s
   and number = %(attempt)s;

-- name: list_groups
-- The container groups that a tenant's jobs, machines, pauses and prices name: their open jobs, machines that were heard of within
-- ten minutes, and what is set of them. '' is the null group.
with named as materialized (
  select lower(container_group) as container_group, 0 as pending, 0 as in_hand,
         count(*) filter (where last_seen > now() - interval '10 minutes') as machines
    from machines
   where of_tenant(tenant_id, %(scope)s)
   group by 1
   union all
  select lower(container_group), count(*) filter (where rank & 1 = 1), count(*) filter (where rank & 1 = 0), 0
    from queue
   where of_tenant(tenant_id, %(scope)s)
   group by 1
   union all
  select container_group, 0, 0, 0 from paused_groups where of_tenant(tenant_id, %(scope)s)
   union all
  select container_group, 0, 0, 0 from group_prices where of_tenant(tenant_id, %(scope)s)
),
page as (
  select container_group, sum(pending)::bigint as pending, sum(in_hand)::bigint as in_hand, sum(machines)::bigint as machines
    from named
   group by container_group
   order by container_group
   limit %(most)s
)
select g.container_group, g.pending, g.in_hand, g.machines, p.since as paused_since, p.by as paused_by, r.price_per_hour
  from page g
  left join lateral (
       select since, by
         from paused_groups
        where container_group = g.container_group
          and of_tenant(tenant_id, %(scope)s)
        limit 1) p on true
  left join lateral (
       select price_per_hour
         from group_prices
        where container_group = g.container_group
          and of_tenant(tenant_id, %(scope)s)
        limit 1) r on true
 order by g.container_group;

-- name: count_one_group
-- The open jobs of a group, however its id is spelled, and for how many seconds the oldest of those that wait for their first machine
-- has done so.
with counted as materialized (
  select count(*) filter (where rank & 1 = 1 and parked is null) as pending, count(*) filter (where rank & 1 = 0) as in_hand,
         count(*) filter (where parked is not null) as parked, min(seq) filter (where rank & 1 = 1 and parked is null) as oldest
    from queue
   where of_tenant(tenant_id, %(scope)s)
     and container_group = any (%(spellings)s)
)
select pending, in_hand, parked, (select extract(epoch from now() - j.created)::float8 from jobs j where j.seq = oldest) as oldest_waits
  from counted;

-- name: list_cells
-- The jobs of a sweep in the order of their submission, each with its phase; see functions/cells_of_sweep.sql. The caller is looked at before.
select id, name, attempt, phase from cells_of_sweep(%(sweep_id)s, %(most)s);

-- Statements of the pages at /ui. What they show besides they read as the routes do.

-- name: count_phases
-- How many open jobs are in which phase.
select p.phase, count(*) as jobs
  from queue q
  join job_phases p on p.job_id = q.job_id
 where of_tenant(q.tenant_id, %(scope)s)
   and of_group(q.container_group, %(groups)s)
 group by p.phase;

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

-- name: list_cells
-- The jobs of a sweep in the order of their submission, each with its phase. The caller is looked at before.
select j.id, j.name, j.attempt, coalesce(p.phase, j.status::text) as phase
  from jobs j
  left join job_phases p on p.job_id = j.id
 where j.sweep_id = %(sweep_id)s
 order by j.seq
 limit %(most)s;

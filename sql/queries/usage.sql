-- Statements on what attempts cost. The end of an attempt writes its figures, see functions/close_attempt.sql.

-- name: set_price
insert into group_prices (tenant_id, container_group, price_per_hour, by)
values (%(tenant_id)s, lower(%(container_group)s), %(price_per_hour)s, %(actor)s)
    on conflict (tenant_id, container_group) do update
   set price_per_hour = excluded.price_per_hour, since = now(), by = excluded.by;

-- name: remove_price
delete from group_prices where tenant_id = %(tenant_id)s and container_group = lower(%(container_group)s);

-- name: add_up_usage
-- Move the next ends of attempts into the totals of their days. One process at a time does it. Those of tenants that are gone
-- count nowhere.
with turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('kelpie usage')) as ours
),
taken as (
  delete from usage_to_add
   where ctid = any (array(select ctid from usage_to_add where (select ours from turn) limit %(most)s))
  returning *
),
added as (
  insert into usage_of_days as u (tenant_id, day, container_group, machine_id, sweep_id, outcome, attempts, held,
                                  useful, lost, money)
  select tenant_id, day, container_group, machine_id, sweep_id, outcome, count(*), sum(held), sum(useful), sum(lost),
         sum(money)
    from taken
   where exists (select from tenants t where t.id = taken.tenant_id)
   group by tenant_id, day, container_group, machine_id, sweep_id, outcome
      on conflict (tenant_id, day, container_group, machine_id, sweep_id, outcome) do update
     set attempts = u.attempts + excluded.attempts, held = u.held + excluded.held,
         useful = coalesce(u.useful + excluded.useful, u.useful, excluded.useful),
         lost = coalesce(u.lost + excluded.lost, u.lost, excluded.lost),
         money = coalesce(u.money + excluded.money, u.money, excluded.money)
)
select count(*) as moved from taken;

-- name: usage_by_totals
-- Of attempts that ended on the days from `first` to `last`: what they cost, by group, machine or sweep, those that were held
-- longest first, and before them the sums of all. `keys` is the number of rows without the `most`.
with counted as (
  select container_group, machine_id, sweep_id, outcome, attempts, held, useful, lost, money
    from usage_of_days
   where of_tenant(tenant_id, %(scope)s)
     and day between %(first)s and %(last)s
   union all
  select container_group, machine_id, sweep_id, outcome, 1, held, useful, lost, money
    from usage_to_add
   where of_tenant(tenant_id, %(scope)s)
     and day between %(first)s and %(last)s
),
keyed as (
  select case %(by)s
           when 'group' then container_group
           when 'machine' then machine_id
           else nullif(sweep_id, '00000000-0000-0000-0000-000000000000')::text
         end as key, outcome, attempts, held, useful, lost, money
    from counted
)
select grouping(key) = 1 as of_all, key, coalesce(sum(held), 0) as held, sum(useful) as useful,
       sum(lost) filter (where outcome = 'interrupted') as lost_interrupted,
       sum(lost) filter (where outcome = 'failed') as lost_failed,
       sum(lost) filter (where outcome = 'released') as lost_released,
       sum(lost) filter (where outcome = 'canceled') as lost_canceled,
       coalesce(sum(attempts), 0)::bigint as attempts,
       coalesce(sum(attempts) filter (where outcome = 'interrupted'), 0)::bigint as interruptions,
       sum(money) as money, count(*) over () - 1 as keys
  from keyed
 group by grouping sets ((key), ())
 order by of_all desc, held desc, key
 limit %(most)s + 1;

-- name: usage_by_jobs
-- The same from the attempts themselves, which pruning removes: by the name of the job (`label` is null) or the value of a
-- label. No more than `most_attempts` and one are read, so a sum of attempts beyond `most_attempts` means that there are too many.
with ended as materialized (
  select job_id, outcome, held, useful, lost, held / 3600 * price_per_hour as money
    from attempts
   where tenant_id is not null
     and of_tenant(tenant_id, %(scope)s)
     and ended >= %(begin)s
     and ended < %(end)s
   limit %(most_attempts)s + 1
),
keyed as (
  select case when %(label)s::text is null then j.name else j.labels ->> %(label)s::text end as key,
         outcome, held, useful, lost, money
    from ended
    join jobs j on j.id = ended.job_id
)
select grouping(key) = 1 as of_all, key, coalesce(sum(held), 0) as held, sum(useful) as useful,
       sum(lost) filter (where outcome = 'interrupted') as lost_interrupted,
       sum(lost) filter (where outcome = 'failed') as lost_failed,
       sum(lost) filter (where outcome = 'released') as lost_released,
       sum(lost) filter (where outcome = 'canceled') as lost_canceled,
       count(*) as attempts,
       count(*) filter (where outcome = 'interrupted') as interruptions,
       sum(money) as money, count(*) over () - 1 as keys
  from keyed
 group by grouping sets ((key), ())
 order by of_all desc, held desc, key
 limit %(most)s + 1;

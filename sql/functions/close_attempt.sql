-- How an attempt ends: what is inserted into attempt_ends is written to the attempt, and that is all the rule there
-- is. What it cost is written with it, and noted for the totals of the day (usage_to_add).
--
-- held    from the handout to the end; of an interrupted attempt, or one that was canceled after its lease had lapsed, to the last
--         heartbeat, checkpoint or piece of output, since nothing tells how long the machine lived after that.
-- lost    from the last checkpoint of the attempt to its end, all of it without one; 0 if it completed; the rest is useful. Both
--         are null where the worker reports no checkpoints: it said none of the parts of the protocol that it speaks, and
--         reported none in this attempt.
--
-- A trigger's statement sees what was committed before it began, while the statement that fires it sees the tables as
-- of its own beginning. The latter may have waited for the job's row in the queue until a claim had committed, and
-- the attempt that this claim opened would be invisible to an update of its own.
create or replace function close_attempt() returns trigger language plpgsql as $$
begin
  with spent as materialized (
    select j.tenant_id, j.sweep_id, a.container_group, a.machine_id, p.price_per_hour, t.held,
           case when c.reported is null and coalesce(cardinality(a.speaks), 0) = 0 then null
                when new.outcome = 'completed' then 0
                else t.held - greatest(0, coalesce(extract(epoch from c.reported - a.claimed)::float8, 0))
           end as lost
      from attempts a
      join jobs j on j.id = a.job_id
      left join lateral (
           select k.reported
             from checkpoints k
            where k.job_id = a.job_id
              and k.attempt = a.number
            order by k.generation desc
            limit 1) c on true
      left join outputs o on o.job_id = a.job_id and o.attempt = a.number
      left join group_prices p on p.tenant_id = j.tenant_id and p.container_group = lower(a.container_group)
     cross join lateral (
           select extract(epoch from greatest(
                    a.claimed,
                    case when new.outcome = 'interrupted'
                           or (new.outcome = 'canceled' and lapsed(new.last_heartbeat, j.heartbeat_interval))
                         then greatest(new.last_heartbeat, c.reported, o.last_at)
                         else now()
                    end) - a.claimed)::float8 as held) t
     where a.job_id = new.job_id
       and a.number = new.number
  ),
  closed as (
    update attempts
       set ended = now(), outcome = new.outcome, last_heartbeat = new.last_heartbeat, exit_code = new.exit_code,
           reason = new.reason, output = new.output, detail = new.detail, tenant_id = spent.tenant_id,
           held = spent.held, useful = spent.held - spent.lost, lost = spent.lost, price_per_hour = spent.price_per_hour
      from spent
     where job_id = new.job_id
       and number = new.number
  )
  insert into usage_to_add (tenant_id, day, container_group, machine_id, sweep_id, outcome, held, useful, lost, money)
  select tenant_id, (now() at time zone 'UTC')::date, container_group, machine_id,
         coalesce(sweep_id, '00000000-0000-0000-0000-000000000000'), new.outcome, held, held - lost, lost,
         held / 3600 * price_per_hour
    from spent;
  update outputs set ended = now() where job_id = new.job_id and attempt = new.number;
  return new;
end $$;

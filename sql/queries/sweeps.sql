-- Statements on sweeps, in the order of their life.
--
-- `scope` is the tenant that the caller may touch, null for all.

-- name: create_sweep
-- No row: the key made one before.
insert into sweeps (id, tenant_id, name, labels, max_parallel, webhook, created_by, key, digest)
values (%(id)s, %(tenant_id)s, %(name)s, %(labels)s::jsonb, %(max_parallel)s, %(webhook)s, %(actor)s, %(key)s,
        %(digest)s::bytea)
    on conflict (tenant_id, key) do nothing
returning id;

-- name: find_sweep_by_key
select id, digest from sweeps where tenant_id = %(tenant_id)s and key = %(key)s;

-- name: open_sweeps_of
-- Of these sweeps those that the tenant has and that take jobs. They are locked against being closed until the jobs are in.
select id
  from sweeps
 where id = any (%(ids)s::uuid[])
   and tenant_id = %(tenant_id)s
   and closed is null
 order by id
   for share;

-- name: get_sweep
-- With what its jobs add up to; see functions/numbers_of_sweep.sql.
select s.id, s.name, s.labels, s.max_parallel, s.webhook, s.created, s.closed is not null as closed, s.closed as closed_at,
       n.phases, n.attempts, n.held
  from sweeps s
 cross join lateral numbers_of_sweep(s.id) n
 where s.id = %(id)s
   and of_tenant(s.tenant_id, %(scope)s);

-- name: list_sweeps
-- A page of a tenant's sweeps, newest first, each with how many jobs it has and how many of them have ended.
select s.id, s.seq, s.name, s.labels, s.max_parallel, s.webhook, s.created, s.closed is not null as closed,
       s.closed as closed_at, n.total, n.total - n.open_jobs as done
  from (select *
          from sweeps
         where of_tenant(tenant_id, %(scope)s)
           and seq < %(before)s
         order by seq desc
         limit %(most)s) s
 cross join lateral (
       select (select count(*) from jobs j where j.sweep_id = s.id) as total,
              (select count(*) from queue q where q.sweep_id = s.id) as open_jobs) n
 order by s.seq desc;

-- name: change_sweep
-- Each `sets_...` says whether the value beside it is to be written. Closed twice, a sweep is closed since the first time. No row: it
-- is not the caller's, or is to be opened again and has ended, if only at this moment: what waits for the row looks again.
update sweeps
   set name = case when %(sets_name)s then %(name)s else name end,
       labels = case when %(sets_labels)s then %(labels)s::jsonb else labels end,
       max_parallel = case when %(sets_max_parallel)s then %(max_parallel)s else max_parallel end,
       closed = case when %(sets_closed)s then case when %(closed)s then coalesce(closed, now()) end else closed end
 where id = %(id)s
   and of_tenant(tenant_id, %(scope)s)
   and not (ended is not null and %(sets_closed)s and not coalesce(%(closed)s, false))
returning id;

-- name: fill_sweep
-- See functions/fill_sweep.sql.
select fill_sweep(%(id)s, %(most)s) as changed;

-- name: exceeds_limit
-- Whether a sweep has more unparked jobs than its limit, of which some can be claimed, now or once they lapse: rows that were locked
-- when the others were parked or marked.
select (select count(*) from queue q where q.sweep_id = s.id and q.parked is null) > s.max_parallel
       and exists (select from queue q where q.sweep_id = s.id and q.parked is null and not q.ends_on_lapse) as exceeds
  from sweeps s
 where s.id = %(id)s;

-- name: sweeps_to_fill
-- The sweeps that may have a free slot and a job for it, or more unparked jobs than their limit.
select s.id
  from sweeps s
 where s.id in (select distinct sweep_id from queue where sweep_id is not null)
   and case when s.max_parallel is null
            then exists (select from queue q where q.sweep_id = s.id and 'sweep' = any (q.parked))
            else case sign((select count(*) from queue q where q.sweep_id = s.id and q.parked is null) - s.max_parallel)
                 when -1 then exists (select from queue q where q.sweep_id = s.id and q.machine_id is null)
                 when 1 then exists (select from queue q where q.sweep_id = s.id and q.parked is null and not q.ends_on_lapse)
                 else false
                 end
       end;

-- name: open_jobs_of_sweep
-- The numbers of the next open jobs of a sweep that is to be canceled, in their order; those that wait for a slot come first,
-- so that no slot that comes free is given to one that is canceled in the next round.
select array(
         select last.seq
           from (select seq from queue where sweep_id = %(id)s order by rank desc, seq desc limit %(most)s) last
          order by last.seq) as numbers;

-- name: prune_sweeps
-- Remove sweeps that ended longer ago than `kept_for` and have no job any more. Totals of usage name them by their ids.
with removed as (
  delete from sweeps s
   where s.ended < now() - %(kept_for)s::interval
     and not exists (select from jobs j where j.sweep_id = s.id)
     and not exists (select from dependencies d where d.on_sweep = s.id)
  returning s.id
),
forgotten as (
  delete from incomplete_sweeps where sweep_id = any (array(select id from removed))
)
select id from removed;

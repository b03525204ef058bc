-- Give the free slots of a sweep to its next jobs, and park what is beyond a limit that was lowered; the number of jobs that
-- were parked, unparked or marked, `most` at most.
--
-- At most `max_parallel` jobs of a sweep are unparked: claimable, held or lapsed. So a claim checks nothing. A job that is
-- parked for another reason, too, has no slot and gets none. Lowering the limit stops no job: those that are held keep
-- their slots until they end. While more are held than the limit allows, each is marked (ends_on_lapse): one that lapses is
-- claimable without a transition, and its next handout would make more held than the limit allows. end_attempts ends its
-- attempt, and end_holding lets it wait for a slot. The marks stay when the limit is raised or others end: end_attempts looks at
-- the lapse whether more are unparked than the limit allows, and takes away a mark that stands for nothing any more.
--
-- Exact under concurrency: the sweep's row is locked by a statement before the one that counts, so this one sees what the
-- filling before it committed; and nothing else unparks a job of a sweep that has a limit. Rows that others hold locked are
-- stepped over; the next filling takes them.
--
-- Rows are chosen by a `materialized` part, once: a plan may run a subquery with a limit once for each row that it is compared
-- with, and each time it would step over the rows that this statement has updated and choose others. `coalesce` keeps the planner
-- from the indexes of all parked jobs, as in held_by.
--
-- Locks, in this order: the sweep's row; rows of `queue`, those that are free.
create or replace function fill_sweep(the_sweep_id uuid, most integer) returns integer language plpgsql volatile
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
as $$
declare
  the_limit integer;
  room      bigint;
  changed   integer;
  marked    integer;
begin
  select max_parallel into the_limit from sweeps where id = the_sweep_id for update;
  if not found then
    return 0;
  end if;
  select coalesce(the_limit, most) - count(*)
    into room
    from (select from queue where the_limit is not null and sweep_id = the_sweep_id and parked is null limit 1000001) unparked;
  if room >= 0 then
    with next as materialized (
      select job_id
        from queue
       where sweep_id = the_sweep_id
         and coalesce(parked, '{}') = '{sweep}'
       order by rank, seq
       limit least(room, most)
         for update skip locked
    )
    update queue q
       set parked = null
     where q.job_id = any (array(select job_id from next));
    get diagnostics changed = row_count;
    if the_limit is null then
      with next as materialized (
        select job_id
          from queue
         where sweep_id = the_sweep_id
           and 'sweep' = any (coalesce(parked, '{}'))
           and coalesce(parked, '{}') <> '{sweep}'
         limit most
           for update skip locked
      )
      update queue q
         set parked = array_remove(q.parked, 'sweep')
       where q.job_id = any (array(select job_id from next));
    end if;
  else
    with last as materialized (
      select job_id
        from queue
       where sweep_id = the_sweep_id
         and parked is null
         and machine_id is null
       order by rank desc, seq desc
       limit least(-room, most)
         for update skip locked
    )
    update queue q
       set parked = '{sweep}'
     where q.job_id = any (array(select job_id from last));
    get diagnostics changed = row_count;
    if changed < least(-room, most) then
      with beyond as materialized (
        select job_id
          from queue
         where sweep_id = the_sweep_id
           and parked is null
           and machine_id is not null
           and not ends_on_lapse
         limit most
           for update skip locked
      )
      update queue q
         set ends_on_lapse = true
       where q.job_id = any (array(select job_id from beyond));
      get diagnostics marked = row_count;
      changed := greatest(changed, marked);
    end if;
  end if;
  return changed;
end $$;

-- Take due webhooks for sending.
--
-- Guarantees
--   * Taken once: its next try moves `hold` into the future, so no other sender takes it, and none is lost if this
--     one dies. Rows that another sender is taking are skipped, never waited for.
--   * Fair: at most `batch` in all, `lane_cap` of a lane and `user_cap` of a user, less what the caller has of them
--     in hand: `lane_rooms` says how many more of each of `known_lanes` it has room for, `user_rooms` of
--     `known_users`. A lane is one user's way to one receiver; the thousand webhooks of a receiver that is down delay
--     no other lane. No user gets one more that has half as many as are free already, so it takes many users to leave
--     none.
--   * In order for each job: a webhook waits for those before it, but not longer than 60 seconds of their retries, so
--     a receiver that refuses `running` still gets `completed`. One that its owner asked for again goes at once, and
--     none waits for one that was finished once.
--
-- Locks: the rows it takes, and no other.
--
-- Shape
--   * Up to 200 due webhooks name their lanes themselves. Beyond that lanes are looked for by stepping through an
--     index from one to the next (users_with_webhooks, lanes_with_webhooks), a hundred of a user and a thousand in
--     all, because the oldest may all be of one lane. Where it begins is chance, so what one look does not reach,
--     another will.
--   * Rows are compared as wholes, which only the right index can answer. With the statistics of a long outbox of one
--     lane the planner took the index of all that is due for the lane's own, and that of all sequence numbers for the
--     job's: some 100,000 entries each, for each other lane.
--   * `num_nonnulls(p.next_try) = 1` is `is not null` in words that no partial index has. With the statistics of a
--     short outbox that has grown since, the planner read webhooks_by_age from end to end, once for each webhook
--     taken.
--   * `= any (array(...))` because a join could be begun from all webhooks.
--
-- Why a function: for the reasons of hand_out_job, and because each lane's room depends on what was taken of those
-- before it.
create or replace function take_webhooks(
  batch integer, hold interval, lane_cap integer, user_cap integer,
  known_lanes uuid[], lane_rooms integer[], known_users uuid[], user_rooms integer[]
) returns setof webhooks language plpgsql
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
declare
  start     uuid := gen_random_uuid();
  backlog   boolean;
  the_user  uuid;
  the_lane  uuid;
  last_user uuid;
  user_room integer;
  fair_room integer;
  lane_room integer;
  taken     integer;
begin
  select count(*) = 200 into backlog
    from (select from webhooks where next_try <= now() order by next_try limit 200) due;
  for the_user, the_lane in
    (select user_id, lane
       from (select user_id, lane from webhooks where next_try <= now() order by next_try limit 200) due
      where not backlog
      group by user_id, lane
      order by user_id < start, user_id, lane < start, lane)
    union all
    (select u.id, l.lane
       from users_with_webhooks(start) as u (id)
      cross join lateral (
            select lane from lanes_with_webhooks(u.id, start, 'ffffffff-ffff-ffff-ffff-ffffffffffff') as a (lane)
            union all
            select lane from lanes_with_webhooks(u.id, '00000000-0000-0000-0000-000000000000', start) as b (lane)
            limit 100) l
      where backlog
      limit 1000)
  loop
    exit when batch <= 0;
    if the_user is distinct from last_user then
      user_room := coalesce(user_rooms[array_position(known_users, the_user)], user_cap);
      last_user := the_user;
    end if;
    fair_room := ceil((batch - 2 * (user_cap - user_room)) / 3.0);
    lane_room := least(user_room, fair_room, coalesce(lane_rooms[array_position(known_lanes, the_lane)], lane_cap));
    continue when lane_room <= 0;
    return query
    with due as materialized (
      select w.id
        from webhooks w
       where (w.user_id, w.lane, w.next_try) >= (the_user, the_lane, '-infinity'::timestamptz)
         and (w.user_id, w.lane, w.next_try) <= (the_user, the_lane, now())
         and w.next_try is not null
         and (w.due_since > w.created
              or not exists (
                 select from webhooks p
                  where (p.job_id, p.seq) >= (w.job_id, '-9223372036854775808'::bigint)
                    and (p.job_id, p.seq) < (w.job_id, w.seq)
                    and num_nonnulls(p.next_try) = 1
                    and p.tries_before = 0
                    and p.created > now() - interval '60 seconds'))
       order by w.user_id, w.lane, w.next_try
       limit lane_room
         for update skip locked
    )
    update webhooks w
       set next_try = now() + hold, tries = w.tries + 1, under_way = true
     where w.id = any (array(select id from due))
    returning w.*;
    get diagnostics taken = row_count;
    user_room := user_room - taken;
    batch := batch - taken;
  end loop;
end $$;

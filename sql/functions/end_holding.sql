-- What the end of an attempt does to the row in the queue, whichever statement ends it: what the holder said is forgotten, and
-- the time that it held the job is taken off what the job has left. Until when the output is read along stays: readers go over
-- to the next attempt, whose holder hears of them with the answer to its first piece.
--
-- Given back, the job is claimable again, unless something may stand against it (ends_on_lapse): a wish, or a limit. Then it
-- is parked, so that nothing hands it out until end_attempts has seen to it. The statement that gave it back asks for
-- that at once, and maintenance does for reports that the release before took.
--
-- A job of a sweep that is beyond a limit which was lowered meanwhile waits for a slot: else a claim before the next filling
-- would make more held than the limit allows. So a mark of fill_sweep, which is neither of a wish nor of a limit of the job, has done its
-- work and is taken away. The sweep's row is locked as in keep_slots, and for the same reason.
create or replace function end_holding() returns trigger language plpgsql as $$
declare
  held_until timestamptz := case when lapsed(old.heartbeat, old.heartbeat_interval) then old.heartbeat else now() end;
begin
  new.phase = null;
  if old.seconds_left is not null then
    new.seconds_left = greatest(0, old.seconds_left - ceil(extract(epoch from held_until - (
      select claimed from attempts where job_id = old.job_id and number = old.attempt))));
  end if;
  if new.machine_id is null then
    new.speaks = null;
    new.deadline = null;
    if new.wish is not null or new.attempt >= new.ends_from_attempt then
      if new.ends_on_lapse then
        new.parked = with_reason(new.parked, 'hold');
      end if;
    else
      new.ends_on_lapse = false;
    end if;
    if new.sweep_id is not null and new.parked is null then
      perform from sweeps s
        where s.id = new.sweep_id
          and exists (select from queue q where q.sweep_id = s.id and q.parked is null offset s.max_parallel)
          and s.max_parallel is not null
          for share;
      if found then
        new.parked = '{sweep}';
      end if;
    end if;
  end if;
  return new;
end $$;

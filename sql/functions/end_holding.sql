-- What the end of an attempt does to the row in the queue, whichever statement ends it: what the holder said is forgotten, and
-- the time that it held the job is taken off what the job has left. Until when the output is read along stays: readers go over
-- to the next attempt, whose holder hears of them with the answer to its first piece.
--
-- Given back, the job is claimable again, unless something may stand against it (ends_on_lapse): a wish, or a limit. Then it
-- is parked, so that nothing hands it out until end_attempts has seen to it. The statement that gave it back asks for
-- that at once, and maintenance does for reports that the release before took.
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
    if new.ends_on_lapse then
      new.parked = with_reason(new.parked, 'hold');
    end if;
  end if;
  return new;
end $$;

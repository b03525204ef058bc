-- What the end of an attempt does to the row in the queue, whichever statement ends it: what the holder said is forgotten, and
-- the time that it held the job is taken off what the job has left.
--
-- Given back, the job is claimable again, unless something stands against it: a wish to hold it, cancel it or end it for its
-- limits, or a limit that may be reached (ends_on_lapse). Then it is parked with its wish (`hold` where it had none), so that
-- nothing hands it out until end_attempts has carried that out: the statement that gave it back asks for it at once, and
-- maintenance does so for reports that the release before took.
create or replace function end_holding() returns trigger language plpgsql as $$
declare
  held_until timestamptz := case when lapsed(old.heartbeat, old.heartbeat_interval) then old.heartbeat else now() end;
begin
  new.phase = null;
  new.watched_until = null;
  if old.seconds_left is not null then
    new.seconds_left = greatest(0, old.seconds_left - ceil(extract(epoch from held_until - (
      select claimed from attempts where job_id = old.job_id and number = old.attempt))));
  end if;
  if new.machine_id is null then
    new.speaks = null;
    new.deadline = null;
    if old.ends_on_lapse then
      new.parked = with_reason(new.parked, 'hold');
    end if;
  end if;
  return new;
end $$;

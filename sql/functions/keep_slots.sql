-- What comes to the queue without a slot in its sweep, or gives its slot up because it is parked, waits for one again: the reason
-- `sweep` goes only where fill_sweep gives a slot.
--
-- Locks: the sweep's row, shared, so that a limit that is being set counts this job or is seen by it. What holds that row
-- exclusively takes rows of the queue with `skip locked` and so never waits for the one that this trigger is fired for.
create or replace function keep_slots() returns trigger language plpgsql as $$
begin
  perform from sweeps where id = new.sweep_id and max_parallel is not null for share;
  if found then
    new.parked = with_reason(new.parked, 'sweep');
  end if;
  return new;
end $$;

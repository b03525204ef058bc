-- What comes to the queue without a slot in its sweep, or gives its slot up because it is parked, waits for one again: the reason
-- `sweep` goes only where fill_sweep gives a slot. So does what was parked for another reason while its sweep had no limit, and comes free
-- after one was set.
--
-- Locks: the sweep's row, shared, so that a limit that is being set counts this job or is seen by it; also where there is none yet, for it
-- may be set at this moment. What holds that row exclusively takes rows of the queue with `skip locked` and so never waits for the one
-- that this trigger is fired for.
create or replace function keep_slots() returns trigger language plpgsql as $$
declare
  the_limit integer;
begin
  select max_parallel into the_limit from sweeps where id = new.sweep_id for share;
  if the_limit is not null then
    new.parked = with_reason(new.parked, 'sweep');
  end if;
  return new;
end $$;

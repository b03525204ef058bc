-- Whether more jobs of a sweep are unparked than its limit allows. It locks the sweep's row, shared, where that is so or may be
-- changed at this moment, so that a limit which is being set counts the row of the caller, or is seen here.
create or replace function exceeds_sweep(the_sweep_id uuid) returns boolean language plpgsql volatile as $$
declare
  the_limit integer;
begin
  select max_parallel into the_limit from sweeps where id = the_sweep_id for share;
  return exists (select from queue where sweep_id = the_sweep_id and parked is null offset the_limit) and the_limit is not null;
end $$;

-- The reasons for which a job is parked, with one more.
create or replace function with_reason(parked text[], reason text) returns text[] language sql immutable as $$
  select case when reason = any (parked) then parked else parked || array[reason] end
$$;

-- The reasons for which a job is parked, with one less; null where none is left, and the job can be claimed.
create or replace function without_reason(parked text[], reason text) returns text[] language sql immutable as $$
  select nullif(array_remove(parked, reason), '{}')
$$;

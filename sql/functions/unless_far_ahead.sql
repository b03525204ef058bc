-- A moment, or now where it lies more than two minutes ahead: it was noted by a clock that was set back since, and no
-- request may wait for it.
create or replace function unless_far_ahead(moment timestamptz) returns timestamptz language sql stable as $$
  select case when moment > now() + interval '2 minutes' then now() else moment end
$$;

-- What is done at Salad with the coordinator's own key.
--
-- salad_requests  how many requests were sent, for all processes on all hosts: Salad counts them by the key. One row, as
--                 `asking.Budget` keeps it for one process: when the next request would be due if all came evenly,
--                 and until when Salad asked for silence.
--
-- Locks: none. The running release can live beside it, and keeps to the budget that it has.

create table salad_requests (
  only_row     boolean     primary key default true check (only_row),
  next_at      timestamptz not null,
  silent_until timestamptz not null default now()
) with (fillfactor = 50);

-- A moment so far ahead was noted by a clock that was set back since; nobody must wait for it.
create function unless_far_ahead(moment timestamptz) returns timestamptz language sql stable as $$
  select case when moment > now() + interval '2 minutes' then now() else moment end
$$;

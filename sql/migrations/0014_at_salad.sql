-- What is done at Salad with the coordinator's own key.
--
-- salad_requests  how many requests were sent, for all processes on all hosts: Salad counts them by the key. One row: when
--                 the next request would be due if all came evenly, and until when Salad asked for silence.
--
-- stopping_groups  container groups that Salad is being told to stop: until then their machines are handed no job.
--                  claims_ended waits for the claims that cannot have seen it.
--
-- Locks: none. The running release can live beside it, and keeps to the budget that it has.
--
-- Before its functions moved out its checksum was 6377fac61cd8f87d2ca1c1032a89bec03f90803dcc0e655457095d1e5e2ef67f

create table salad_requests (
  only_row     boolean     primary key default true check (only_row),
  next_at      timestamptz not null,
  silent_until timestamptz not null default now()
) with (fillfactor = 50);

create table stopping_groups (
  container_group text        primary key,
  until           timestamptz not null
);

-- The guard of the reports that end a job: from its holder, or for a pending job that was never handed out from any
-- machine, as the original accepts it.
create or replace function may_end(q queue, scope bigint, groups text[], the_machine_id text, the_attempt integer)
returns boolean language sql immutable as $$
  select in_reach(q, scope, groups)
     and (the_attempt is null or q.attempt = the_attempt)
     and (q.machine_id = the_machine_id or q.attempt = 0)
$$;

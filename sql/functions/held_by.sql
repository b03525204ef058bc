-- The guard of every write by a worker: it may touch the job, and its machine holds it in this attempt. The
-- original's worker sends no attempt (null); then the machine alone is compared.
create or replace function held_by(q queue, scope bigint, groups text[], the_machine_id text, the_attempt integer)
returns boolean language sql immutable as $$
  select in_reach(q, scope, groups) and q.machine_id = the_machine_id and (the_attempt is null or q.attempt = the_attempt)
$$;

-- The guard of every write by a worker: it may touch the job, and its machine holds it in this attempt. The
-- original's worker sends no attempt (null); then the machine alone is compared.
--
-- `coalesce` keeps the planner from the indexes of jobs that are held. While nothing is held they are found empty, and a session
-- would plan to look through them for a job instead of going to it: through those of ten thousand at each heartbeat, a day later.
create or replace function held_by(q queue, scope bigint, groups text[], the_machine_id text, the_attempt integer)
returns boolean language sql immutable as $$
  select coalesce(in_reach(q, scope, groups) and q.machine_id = the_machine_id and (the_attempt is null or q.attempt = the_attempt),
                  false)
$$;

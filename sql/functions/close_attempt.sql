-- How an attempt ends: what is inserted into attempt_ends is written to the attempt, and that is all the rule there
-- is.
--
-- A trigger's statement sees what was committed before it began, while the statement that fires it sees the tables as
-- of its own beginning. The latter may have waited for the job's row in the queue until a claim had committed, and
-- the attempt that this claim opened would be invisible to an update of its own.
create or replace function close_attempt() returns trigger language plpgsql as $$
begin
  update attempts
     set ended = now(), outcome = new.outcome, last_heartbeat = new.last_heartbeat, exit_code = new.exit_code,
         reason = new.reason, output = new.output, detail = new.detail
   where job_id = new.job_id
     and number = new.number;
  return new;
end $$;

-- The end of an attempt, written by one rule: five statements had it each in its own copy.
--
-- attempt_ends  shows the attempts that ended, and takes the end of one: see functions/close_attempt.sql.
--
-- Locks: none on any table. The running release can live beside it: it writes to `attempts` itself.

create view attempt_ends as
select job_id, number, outcome, last_heartbeat, exit_code, reason, output, detail
  from attempts
 where ended is not null;

-- Declared for its trigger; what it does stands in functions/close_attempt.sql.
create function close_attempt() returns trigger language plpgsql as 'begin return new; end';

create trigger close_attempt instead of insert on attempt_ends for each row execute function close_attempt();

-- Removes what is kept of jobs for as long as they are open, once they left the queue, by whichever statement.
create or replace function forget_open_jobs() returns trigger language plpgsql
  set enable_seqscan = off
as $$
begin
  delete from during_prefixes d using ended e where d.job_id = e.job_id;
  return null;
end $$;

-- Removes what is kept of open jobs for as long as they are open, of all of them, where the queue is emptied at once.
create or replace function forget_all_open_jobs() returns trigger language plpgsql as $$
begin
  truncate open_job_counts, during_prefixes, pauses, job_secrets;
  return null;
end $$;

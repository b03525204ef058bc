-- Removes what is kept of the progress of jobs that are removed, by whichever statement.
create or replace function forget_progress() returns trigger language plpgsql
  set enable_seqscan = off
as $$
begin
  delete from progress p using gone g where p.job_id = g.id;
  delete from progress_points p using gone g where p.job_id = g.id;
  return null;
end $$;

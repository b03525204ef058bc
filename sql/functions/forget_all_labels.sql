-- Removes the labels of all jobs, where all jobs are removed at once.
create or replace function forget_all_labels() returns trigger language plpgsql as $$
begin
  truncate job_labels;
  return null;
end $$;

-- Counts the jobs of a submission as open jobs of their tenant; forget_open_jobs takes them off again.
create or replace function count_submitted() returns trigger language plpgsql as $$
begin
  insert into open_job_counts (tenant_id, jobs, bytes)
  select tenant_id, count(*), sum(bytes) from submitted group by tenant_id;
  return null;
end $$;

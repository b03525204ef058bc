-- Takes jobs off their tenant's count, and removes what is kept of them for as long as they are open, once they left the
-- queue, by whichever statement.
create or replace function forget_open_jobs() returns trigger language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  insert into open_job_counts (tenant_id, jobs, bytes)
  select tenant_id, -count(*), -sum(bytes) from ended group by tenant_id;
  delete from pauses p using ended e where p.job_id = e.job_id and e.looped_until is not null;
  delete from job_secrets s using ended e where s.job_id = e.job_id;
  delete from during_prefixes d using ended e where d.job_id = e.job_id;
  return null;
end $$;

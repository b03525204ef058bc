-- Takes jobs off their tenant's count, and removes what is kept of them for as long as they are open, once they left the
-- queue, by whichever statement. Their ids are an array, for joined with them a table might be read whole where it was empty when the
-- session planned this.
create or replace function forget_open_jobs() returns trigger language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  insert into open_job_counts (tenant_id, jobs, bytes)
  select tenant_id, -count(*), -sum(bytes) from ended group by tenant_id;
  delete from pauses where job_id = any (array(select job_id from ended where looped_until is not null));
  delete from job_secrets where job_id = any (array(select job_id from ended));
  delete from during_prefixes where job_id = any (array(select job_id from ended));
  return null;
end $$;

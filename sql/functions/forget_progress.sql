-- Removes what is kept of the progress and the output of jobs that are removed, by whichever statement.
create or replace function forget_progress() returns trigger language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  delete from progress where job_id = any (array(select id from gone));
  delete from progress_points where job_id = any (array(select id from gone));
  delete from output_pieces where job_id = any (array(select id from gone));
  with old as (
    delete from outputs where job_id = any (array(select id from gone))
    returning tenant_id, kept
  )
  insert into output_sizes (tenant_id, bytes) select tenant_id, -sum(kept) from old group by tenant_id;
  return null;
end $$;

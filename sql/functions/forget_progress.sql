-- Removes what is kept of the progress and the output of jobs that are removed, by whichever statement.
create or replace function forget_progress() returns trigger language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  delete from progress p using gone g where p.job_id = g.id;
  delete from progress_points p using gone g where p.job_id = g.id;
  delete from output_pieces p using gone g where p.job_id = g.id;
  with old as (
    delete from outputs o using gone g where o.job_id = g.id
    returning o.tenant_id, o.kept
  )
  insert into output_sizes (tenant_id, bytes) select tenant_id, -sum(kept) from old group by tenant_id;
  return null;
end $$;

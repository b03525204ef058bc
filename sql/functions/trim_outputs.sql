-- Add up what is kept of each tenant's output, and where it is more than `the_most` bytes remove that of attempts that ended, the
-- oldest first; what is removed is answered. One process at a time does it; a round removes a thousand attempts of a tenant.
create or replace function trim_outputs(the_most bigint) returns bigint language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
declare
  tenant record;
  old record;
  surplus bigint;
  removed bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtext('kelpie outputs')) then
    return 0;
  end if;
  with settled as (
    delete from output_sizes returning tenant_id, bytes
  )
  insert into output_sizes (tenant_id, bytes)
  select tenant_id, sum(bytes) from settled group by tenant_id having sum(bytes) <> 0;
  for tenant in select tenant_id, sum(bytes) as bytes from output_sizes group by tenant_id having sum(bytes) > the_most loop
    surplus := tenant.bytes - the_most;
    for old in
      select job_id, attempt, kept
        from outputs
       where tenant_id = tenant.tenant_id
         and ended is not null
       order by ended
       limit 1000
    loop
      exit when surplus <= 0;
      delete from output_pieces where job_id = old.job_id and attempt = old.attempt;
      delete from outputs where job_id = old.job_id and attempt = old.attempt;
      surplus := surplus - old.kept;
      removed := removed + old.kept;
      insert into output_sizes (tenant_id, bytes) values (tenant.tenant_id, -old.kept);
    end loop;
  end loop;
  return removed;
end $$;

-- One job as described_jobs shows it, and what its holder said of its checkpoint's lag; no row where the caller may not see it. A job
-- may be seen by its group, and by the groups of the machines that had it. A function for the reason that claimed_job is one.
create or replace function described_job(the_id uuid, scope bigint, groups text[]) returns table (
  job visible_jobs, checkpoint_generation bigint, checkpoint_at timestamptz, checkpoint_bytes bigint,
  said json, said_at timestamptz, said_fraction double precision, changed_at timestamptz,
  first_fraction double precision, first_at timestamptz, is_live boolean, checkpoint_lag integer
) language plpgsql stable
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
as $$
#variable_conflict use_column
begin
return query
select s.job, s.checkpoint_generation, s.checkpoint_at, s.checkpoint_bytes, s.said, s.said_at, s.said_fraction,
       s.changed_at, s.first_fraction, s.first_at, s.is_live,
       (select q.checkpoint_lag from queue q where q.job_id = the_id)
  from described_jobs(array(select seq from jobs where id = the_id)) s
 where of_tenant((s.job).tenant_id, scope)
   and (of_group(coalesce((s.job).container_group_id, ''), groups)
        or exists (select from attempts a where a.job_id = the_id and a.container_group = any (groups)));
end $$;

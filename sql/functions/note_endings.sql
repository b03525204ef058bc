-- Notes the end of jobs that others wait for. It runs after the statement that took them off the queue, so their status is
-- the last one; a job that was removed with its history counts as not completed.
--
-- Two ends of one job cannot be: it leaves the queue once. A submission that names a job locks its row in the queue before it
-- looks whether it has ended, so either it sees the end, or this sees its dependency.
--
-- `limit` looks dependents up for each job: as a join, all dependencies there are might be read at each end of a job, where they were few
-- when the session planned this.
create or replace function note_endings() returns trigger language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  insert into dependency_endings (id, is_completed)
  select g.job_id, coalesce((select j.status = 'completed' from jobs j where j.id = g.job_id), false)
    from gone g
   where (select true from dependencies d where d.on_job = g.job_id limit 1)
      on conflict do nothing;
  return null;
end $$;

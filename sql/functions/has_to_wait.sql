-- Whether a machine has to wait for a job that it took and released again and again, or that so many released that it waits for
-- all (the pause without a machine's name). A function, and asked only of jobs that are in such a loop, because a subquery in
-- hand_out_job costs each claim something, also where it is never carried out.
create or replace function has_to_wait(the_machine_id text, the_job_id uuid) returns boolean language plpgsql stable
  set enable_seqscan = off
  set jit = off
as $$
begin
  return exists (select from pauses where job_id = the_job_id and machine_id in (the_machine_id, '') and until > now());
end $$;

-- Refuses every change of a final job, every move that is not in job_transitions, and an attempt that goes down: also
-- by hand in psql. Programs know the violation by its SQLSTATE, KL001 to KL003.
create or replace function guard_job() returns trigger language plpgsql as $$
begin
  if old.status in ('completed', 'failed', 'canceled') then
    raise exception 'job % is % and takes no more changes', old.id, old.status using errcode = 'KL001';
  end if;
  if new.status <> old.status and not exists (
       select from job_transitions where from_status = old.status and to_status = new.status) then
    raise exception 'job % cannot move from % to %', old.id, old.status, new.status using errcode = 'KL002';
  end if;
  if new.attempt < old.attempt then
    raise exception 'attempt of job % cannot go down from % to %', old.id, old.attempt, new.attempt
      using errcode = 'KL003';
  end if;
  return new;
end $$;

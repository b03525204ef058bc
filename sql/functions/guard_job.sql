-- Refuses every change of a final job, every move that is not in job_transitions, and an attempt that goes down: also
-- by hand in psql. The environment of a final job may be sealed, and sealed anew. Programs know the violation by its SQLSTATE, KL001 to KL003.
create or replace function guard_job() returns trigger language plpgsql as $$
begin
  if old.status in ('completed', 'failed', 'canceled') then
    if new.sealed_environment is not null
       and new.sealed_environment is distinct from old.sealed_environment
       and to_jsonb(new) - array['environment', 'sealed_environment']
           = to_jsonb(old) - array['environment', 'sealed_environment'] then
      return new;
    end if;
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

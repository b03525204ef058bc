-- Writes the event of a stall that a holder told: once until it goes on.
create or replace function note_stall() returns trigger language plpgsql as $$
begin
  insert into events (job_id, kind, actor, attempt, detail)
  values (new.job_id, 'stalled', 'machine:' || new.machine_id, new.attempt,
          jsonb_build_object('machine_id', new.machine_id, 'fraction', new.fraction));
  return null;
end $$;

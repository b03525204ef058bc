-- A job that was parked while its sweep had no limit comes free without a slot. Once a limit is set, it has to wait for one like all
-- others; until now only the next filling parked what was too much, and claims in between went beyond the limit.
--
-- Locks: `queue` against writing, for the moment in which the trigger is replaced. The running release can live beside it.

create or replace trigger keep_slots_of_parked_jobs before update on queue
  for each row when (new.sweep_id is not null
                     and case when old.parked is null then new.parked is not null
                              else new.parked is null and 'sweep' <> all (old.parked)
                         end)
  execute function keep_slots();

-- The phase of a job that is in the queue, by what else is known of it; `is_paused`: its container group is, `has_lapsed`: its lease.
create or replace function phase_by(q queue, is_paused boolean, has_lapsed boolean) returns text language sql immutable as $$
  select case when q.machine_id is not null and not has_lapsed then coalesce(q.phase, 'running')
              when q.parked is not null or is_paused then 'parked'
              when q.rank & 1 = 0 then 'waiting'
              else 'pending'
         end
$$;

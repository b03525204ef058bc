-- The phase of a job that is in the queue; `is_paused`: its container group is.
create or replace function phase_in_queue(q queue, is_paused boolean) returns text language sql stable as $$
  select case when q.machine_id is not null and not lapsed(q.heartbeat, q.heartbeat_interval) then coalesce(q.phase, 'running')
              when q.parked is not null or is_paused then 'parked'
              when q.rank & 1 = 0 then 'waiting'
              else 'pending'
         end
$$;

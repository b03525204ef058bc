-- The phase of a job that is in the queue; `is_paused`: its container group is. See phase_by.
create or replace function phase_in_queue(q queue, is_paused boolean) returns text language sql stable as $$
  select phase_by(q, is_paused, q.machine_id is not null and lapsed(q.heartbeat, q.heartbeat_interval))
$$;

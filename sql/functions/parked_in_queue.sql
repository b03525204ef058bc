-- Why a job that is in the queue cannot be claimed, null if it can be or is held; `is_paused`: its container group is.
create or replace function parked_in_queue(q queue, is_paused boolean) returns text[] language sql stable as $$
  select case when q.machine_id is not null and not lapsed(q.heartbeat, q.heartbeat_interval) then null
              when is_paused then q.parked || array['paused']
              else q.parked
         end
$$;

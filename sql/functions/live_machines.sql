-- The machines that may still come for a job of a line: heard of lately, or busy with a job. A worker that had
-- trouble pauses for minutes before it asks again. '' is the line of the null group, which every machine of the
-- tenant is served from.
create or replace function live_machines(the_tenant_id bigint, the_container_group text) returns setof text
language sql stable as $$
  select machine_id
    from machines
   where tenant_id = the_tenant_id
     and (the_container_group = '' or container_group = the_container_group)
     and last_seen > now() - interval '10 minutes'
   union
  select machine_id
    from queue
   where tenant_id = the_tenant_id
     and machine_id is not null
     and (the_container_group = '' or holder_group = the_container_group)
     and not lapsed(heartbeat, heartbeat_interval)
$$;

-- Notifies kelpie_work that there is work, once for each line of a submission. Announcing
-- transactions commit one after the other (so works NOTIFY), so nothing frequent may announce: claims and heartbeats
-- insert nothing here.
create or replace function announce_submitted() returns trigger language plpgsql as $$
begin
  perform pg_notify('kelpie_work', tenant_id || ' ' || container_group)
     from (select distinct tenant_id, container_group from submitted) as line;
  return null;
end $$;

-- Whoever waits for work hears of it: once for each line of a submission, and when a holder gives a job back. The
-- announcing transactions commit one after the other (so works NOTIFY), so nothing frequent may announce: neither
-- heartbeats nor claims come this far, the first because they do not set machine_id.
create or replace function announce_submitted() returns trigger language plpgsql as $$
begin
  perform pg_notify('kelpie_work', tenant_id || ' ' || container_group)
     from (select distinct tenant_id, container_group from submitted) as line;
  return null;
end $$;

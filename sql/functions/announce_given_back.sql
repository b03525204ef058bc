-- Notifies kelpie_work that a holder gave a job back. Heartbeats do not set machine_id, and a claim
-- sets it, so neither fires the trigger.
create or replace function announce_given_back() returns trigger language plpgsql as $$
begin
  perform pg_notify('kelpie_work', new.tenant_id || ' ' || new.container_group);
  return null;
end $$;

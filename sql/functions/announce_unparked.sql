-- Notifies kelpie_work that a parked job can be claimed.
create or replace function announce_unparked() returns trigger language plpgsql as $$
begin
  perform pg_notify('kelpie_work', new.tenant_id || ' ' || new.container_group);
  return null;
end $$;

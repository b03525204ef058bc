create or replace function announce_given_back() returns trigger language plpgsql as $$
begin
  perform pg_notify('kelpie_work', new.tenant_id || ' ' || new.container_group);
  return null;
end $$;

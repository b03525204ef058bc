-- Fills in whose a webhook is and its lane, so that the statements that write webhooks need not know them.
create or replace function find_lane() returns trigger language plpgsql as $$
begin
  select t.user_id, webhook_lane(t.user_id, new.url)
    into new.user_id, new.lane
    from jobs j
    join tenants t on t.id = j.tenant_id
   where j.id = new.job_id;
  return new;
end $$;

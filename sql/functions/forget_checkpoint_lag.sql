-- The lag of one attempt is not another's: whatever ends an attempt or begins one sets machine_id and fires the
-- trigger. A heartbeat sets the lag, and does not.
create or replace function forget_checkpoint_lag() returns trigger language plpgsql as $$
begin
  new.checkpoint_lag = null;
  return new;
end $$;

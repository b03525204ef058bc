create or replace function forget_checkpoint_lag() returns trigger language plpgsql as $$
begin
  new.checkpoint_lag = null;
  return new;
end $$;

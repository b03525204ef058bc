-- With the first renewal of the liveness row after a crash of Postgres, note when that was. A trigger, so that the release before
-- does it as well.
create or replace function note_crash() returns trigger language plpgsql as $$
begin
  if has_crashed() then
    new.recovered := now();
    insert into since_crash default values on conflict do nothing;
  end if;
  return new;
end $$;

-- Whether Postgres crashed, or became the primary in the place of another, since the liveness row was last renewed: what was
-- committed without waiting for the disk may be lost. A standby cannot read the unlogged table, so it is not asked there,
-- where nothing can be written either; plpgsql plans the second statement only if it comes to it.
create or replace function has_crashed() returns boolean language plpgsql stable as $$
begin
  if pg_is_in_recovery() then
    return false;
  end if;
  return not exists (select from since_crash);
end $$;

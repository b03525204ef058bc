-- Have all claims of a group ended that began before it was marked? Those that begin meanwhile wait for a moment.
create or replace function claims_ended(the_container_group text) returns boolean language plpgsql
  set lock_timeout = '3s'
as $$
begin
  perform pg_advisory_xact_lock(hashtext('kelpie claims'), hashtext(the_container_group));
  return true;
exception when lock_not_available then
  return false;
end $$;

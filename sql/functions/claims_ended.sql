-- Whether all claims of a group, named by claims_name, have ended that began before it was marked in stopping_groups;
-- false after three seconds of waiting for them. Claims that begin meanwhile wait for this look.
create or replace function claims_ended(the_container_group text) returns boolean language plpgsql
  set lock_timeout = '3s'
as $$
begin
  perform pg_advisory_xact_lock(hashtext('kelpie claims'), hashtext(the_container_group));
  return true;
exception when lock_not_available then
  return false;
end $$;

-- The lane of a webhook: its user's way to one receiver. Of the URL only the scheme, host and port count. A digest,
-- because a host may be longer than an index can hold.
create or replace function webhook_lane(the_user_id uuid, url text) returns uuid language sql immutable as $$
  select md5(the_user_id || ' ' || lower(regexp_replace(substring(url from '^[^/?#]*//[^/?#]*'), '//.*@', '//')))::uuid
$$;

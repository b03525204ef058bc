-- Whether a caller may touch a row of this container group: `groups` are the only groups whose rows it may, '' being
-- the null group (null: all groups').
create or replace function of_group(the_container_group text, groups text[]) returns boolean language sql immutable as $$
  select groups is null or the_container_group = any (groups)
$$;

-- The users of which webhooks wait, beginning at chance (`start`), so that what one look does not reach, another
-- will. Steps from one user to the next with one look into the index each, never through the webhooks of one.
create or replace function users_with_webhooks(start uuid) returns setof uuid language sql stable as $$
  with recursive waiting (id) as (
    (select user_id from webhooks where next_try is not null order by user_id limit 1)
    union all
    select (select user_id from webhooks where next_try is not null and user_id > waiting.id order by user_id limit 1)
      from waiting
     where waiting.id is not null
  )
  select id from waiting where id is not null order by id < start, id
$$;

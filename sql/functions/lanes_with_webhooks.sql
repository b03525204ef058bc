-- The lanes of a user in which webhooks wait, behind `after` up to `until`, a hundred at most. Steps from one lane to
-- the next with one look into the index each, never through the webhooks of one.
create or replace function lanes_with_webhooks(the_user_id uuid, after uuid, until uuid) returns setof uuid language sql stable as $$
  with recursive waiting (lane) as (
    (select lane
       from webhooks
      where user_id = the_user_id and next_try is not null and lane > after and lane <= until
      order by lane
      limit 1)
    union all
    select (select w.lane
              from webhooks w
             where w.user_id = the_user_id and w.next_try is not null and w.lane > waiting.lane and w.lane <= until
             order by w.lane
             limit 1)
      from waiting
     where waiting.lane is not null
  )
  select lane from waiting where lane is not null limit 100
$$;

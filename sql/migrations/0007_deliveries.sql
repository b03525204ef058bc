-- Signed webhooks, lanes for their delivery, its log, and redelivery.
--
-- signing_secrets  what a user's webhooks are signed with, encrypted. A rotated secret still signs beside the new one
--                  until `valid_until`, so that receivers can change over without losing a message.
-- secret_key       a keyed digest of the KELPIE_SECRET_KEY that all sealed columns were sealed with; one row, written
--                  by whoever starts first.
-- deliveries       one row for each try of a webhook that came to an end, and how it ended.
--
-- A webhook that waits knows its user and its lane, which is the user's way to one receiver. The sender takes a few
-- of each lane, so the thousand of a dead receiver stand in nobody else's way. A trigger fills both in, so that
-- the statements that write webhooks, the running release's among them, need not know them.
--
-- Locks: `webhooks`, against writing, while two small indexes are built by reading it once; claims and reports of
-- jobs with a webhook wait for that long. The running release can live beside it.

create table signing_secrets (
  id          bigint      generated always as identity primary key,
  user_id     uuid        not null references users on delete cascade,
  sealed      bytea       not null,
  created     timestamptz not null default now(),
  valid_until timestamptz
);

create unique index one_current_signing_secret on signing_secrets (user_id) where valid_until is null;
create index signing_secrets_of_a_user on signing_secrets (user_id);

create table secret_key (
  only_row    boolean     primary key default true check (only_row),
  fingerprint bytea       not null,
  since       timestamptz not null default now()
);

create table deliveries (
  webhook_id uuid        not null references webhooks on delete cascade,
  number     integer     not null check (number > 0),
  at         timestamptz not null default now(),
  answer     integer,
  error      text,
  primary key (webhook_id, number)
);

alter table webhooks
  add column user_id      uuid,
  add column lane         uuid,
  add column due_since    timestamptz not null default now(),  -- created, or asked for by its owner
  add column tries_before integer     not null default 0,      -- how many there were when it became due once more
  add column under_way    boolean     not null default false,  -- a sender has it until next_try
  add constraint a_due_webhook_has_a_lane check (next_try is null or (user_id is not null and lane is not null))
      not valid,
  add constraint tries_before_are_tries check (tries_before between 0 and tries) not valid;

-- Of the URL only the scheme, host and port count. A digest, for a host may be longer than an index can hold.
create function webhook_lane(the_user_id uuid, url text) returns uuid language sql immutable as $$
  select md5(the_user_id || ' ' || lower(regexp_replace(substring(url from '^[^/?#]*//[^/?#]*'), '//.*@', '//')))::uuid
$$;

create function find_lane() returns trigger language plpgsql as $$
begin
  select t.user_id, webhook_lane(t.user_id, new.url)
    into new.user_id, new.lane
    from jobs j
    join tenants t on t.id = j.tenant_id
   where j.id = new.job_id;
  return new;
end $$;

create trigger find_lane before insert or update of next_try on webhooks
   for each row when (new.next_try is not null and new.lane is null) execute function find_lane();

update webhooks set next_try = next_try, due_since = created where next_try is not null;

create index webhooks_of_a_lane on webhooks (user_id, lane, next_try) where next_try is not null;
create index webhooks_by_age on webhooks (due_since) where next_try is not null;

-- History grows, so a share of it would be vacuumed too late for the few rows that are due.
alter table webhooks set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Steps from one to the next with one look into the index each, never through the rows of one. What comes first is
-- chance (`start`), so what a look does not reach, another will.
create function users_with_webhooks(start uuid) returns setof uuid language sql stable as $$
  with recursive waiting (id) as (
    (select user_id from webhooks where next_try is not null order by user_id limit 1)
    union all
    select (select user_id from webhooks where next_try is not null and user_id > waiting.id order by user_id limit 1)
      from waiting
     where waiting.id is not null
  )
  select id from waiting where id is not null order by id < start, id
$$;

create function lanes_with_webhooks(the_user_id uuid, after uuid, until uuid) returns setof uuid language sql stable as $$
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

-- Take due webhooks for sending, see `take_webhooks` in queries/webhooks.sql. A function, so that its plans do
-- not depend on when they were made (0005_claim.sql tells why).
create function take_webhooks(
  batch integer, hold interval, lane_cap integer, user_cap integer,
  known_lanes uuid[], lane_rooms integer[], known_users uuid[], user_rooms integer[]
) returns setof webhooks language plpgsql
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
declare
  start     uuid := gen_random_uuid();
  backlog   boolean;
  the_user  uuid;
  the_lane  uuid;
  last_user uuid;
  user_room integer;
  fair_room integer;
  lane_room integer;
  taken     integer;
begin
  -- Few due webhooks name their lanes themselves. Of a backlog the lanes are looked for, a hundred of a user and a
  -- thousand in all, for its oldest may all be of one lane.
  select count(*) = 200 into backlog
    from (select from webhooks where next_try <= now() order by next_try limit 200) due;
  for the_user, the_lane in
    (select user_id, lane
       from (select user_id, lane from webhooks where next_try <= now() order by next_try limit 200) due
      where not backlog
      group by user_id, lane
      order by user_id < start, user_id, lane < start, lane)
    union all
    (select u.id, l.lane
       from users_with_webhooks(start) as u (id)
      cross join lateral (
            select lane from lanes_with_webhooks(u.id, start, 'ffffffff-ffff-ffff-ffff-ffffffffffff') as a (lane)
            union all
            select lane from lanes_with_webhooks(u.id, '00000000-0000-0000-0000-000000000000', start) as b (lane)
            limit 100) l
      where backlog
      limit 1000)
  loop
    exit when batch <= 0;
    if the_user is distinct from last_user then
      user_room := coalesce(user_rooms[array_position(known_users, the_user)], user_cap);
      last_user := the_user;
    end if;
    -- Nobody gets one more who has half as many as are free, so it takes many to leave none.
    fair_room := ceil((batch - 2 * (user_cap - user_room)) / 3.0);
    lane_room := least(user_room, fair_room, coalesce(lane_rooms[array_position(known_lanes, the_lane)], lane_cap));
    continue when lane_room <= 0;
    return query
    with due as materialized (
      select w.id
        from webhooks w
       where w.user_id = the_user
         and w.lane = the_lane
         and w.next_try <= now()
         -- In the order of the job's life, unless its owner asked for this one, or the one before is a minute old
         -- or was finished once.
         and (w.due_since > w.created
              or not exists (
                 select from webhooks p
                  where p.job_id = w.job_id
                    and p.seq < w.seq
                    and p.next_try is not null
                    and p.tries_before = 0
                    and p.created > now() - interval '60 seconds'))
       order by w.next_try
       limit lane_room
         for update skip locked
    )
    update webhooks w
       set next_try = now() + hold, tries = w.tries + 1, under_way = true
      from due
     where w.id = due.id
    returning w.*;
    get diagnostics taken = row_count;
    user_room := user_room - taken;
    batch := batch - taken;
  end loop;
end $$;

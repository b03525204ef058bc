-- Signed webhooks, lanes for their delivery, its log, and redelivery.
--
-- signing_secrets  what a user's webhooks are signed with, encrypted. A rotated secret still signs beside the new one
--                  until `valid_until`, so that receivers can change over without losing a message.
-- deliveries       one row for each try of a webhook that came to an end, and how it ended.
--
-- A webhook that waits knows its user and its lane, which is the user's way to one receiver. The sender takes a few
-- of each lane, so the thousand of a dead receiver stand in nobody else's way. A trigger fills both in, so that
-- the statements that write webhooks, the running release's among them, need not know them.
--
-- `webhooks_due` serves the running release only; the next one can drop it.
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
  add column due_since    timestamptz not null default now(),  -- created, or redelivered by its owner
  add column tries_before integer     not null default 0,      -- how many there were when it was redelivered
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

-- Take due webhooks for sending, see `take_webhooks` in queries/webhooks.sql. A function, so that its plans do
-- not depend on when they were made (0005_claim.sql tells why). It steps from lane to lane with one look into the
-- index each, never through the rows of one, and begins at a random place: who comes last is chance.
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
  nobody    uuid := '00000000-0000-0000-0000-000000000000';
  the_user  uuid;
  user_room integer;
  the_lane  uuid;
  lane_room integer;
  wrapped   boolean;
  taken     integer;
begin
  for the_user in
    with recursive pending (id) as (
      (select user_id from webhooks where next_try is not null order by user_id limit 1)
      union all
      select (select user_id from webhooks where next_try is not null and user_id > pending.id order by user_id limit 1)
        from pending
       where pending.id is not null
    )
    select id from pending where id is not null order by id < start, id
  loop
    exit when batch <= 0;
    user_room := least(batch, coalesce(user_rooms[array_position(known_users, the_user)], user_cap));
    the_lane := start;
    wrapped := false;
    -- A user with thousands of lanes is looked at in parts, another one in every round.
    for look in 1 .. 200 loop
      exit when user_room <= 0;
      lane_room := null;
      select lane into the_lane
        from webhooks
       where user_id = the_user
         and next_try is not null
         and lane > the_lane
       order by lane
       limit 1;
      if not found then
        exit when wrapped;
        wrapped := true;
        the_lane := nobody;
        continue;
      end if;
      exit when wrapped and the_lane > start;
      lane_room := least(user_room, coalesce(lane_rooms[array_position(known_lanes, the_lane)], lane_cap));
      continue when lane_room <= 0;
      return query
      with due as materialized (
        select w.id
          from webhooks w
         where w.user_id = the_user
           and w.lane = the_lane
           and w.next_try is not null
           and w.next_try <= now()
           -- In the order of the job's life, unless its owner asked for this one or the one before is a minute old.
           and (w.due_since > w.created
                or not exists (
                   select from webhooks p
                    where p.job_id = w.job_id
                      and p.seq < w.seq
                      and p.next_try is not null
                      and p.due_since = p.created
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
  end loop;
end $$;

-- Signed webhooks, lanes for their delivery, its log, and redelivery.
--
-- signing_secrets  what a user's webhooks are signed with, encrypted. A rotated secret still signs beside the new one
--                  until `valid_until`, so that receivers can change over without losing a message.
-- secret_key       a keyed digest of the KELPIE_SECRET_KEY that all sealed columns were sealed with; one row, written
--                  by whoever starts first.
-- deliveries       one row for each try of a webhook that came to an end, and how it ended.
--
-- A webhook that waits knows its user and its lane, which is the user's way to one receiver. The sender takes a few
-- of each lane, so the thousand of a dead receiver delay no other receiver's. A trigger fills both in, so that
-- the statements that write webhooks, the running release's among them, need not know them.
--
-- Locks: `webhooks`, against writing, while two small indexes are built by reading it once; claims and reports of
-- jobs with a webhook wait for that long. The running release can live beside it.
--
-- Before its functions moved out its checksum was eb8c21a25424fce3b6d7fd855bc77f998e780acae0dffdcd0ec705db648c80b8

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

-- Declared for its trigger; what it does stands in functions/find_lane.sql.
create function find_lane() returns trigger language plpgsql as 'begin return new; end';

create trigger find_lane before insert or update of next_try on webhooks
   for each row when (new.next_try is not null and new.lane is null) execute function find_lane();

-- Without the function, which is applied after all migrations and may say something else by then.
update webhooks w
   set due_since = w.created, user_id = t.user_id,
       lane = md5(t.user_id || ' ' || lower(regexp_replace(substring(w.url from '^[^/?#]*//[^/?#]*'), '//.*@', '//')))::uuid
  from jobs j
  join tenants t on t.id = j.tenant_id
 where w.job_id = j.id
   and w.next_try is not null;

create index webhooks_of_a_lane on webhooks (user_id, lane, next_try) where next_try is not null;
create index webhooks_by_age on webhooks (due_since) where next_try is not null;

-- History grows, so a share of it would be vacuumed too late for the few rows that are due.
alter table webhooks set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

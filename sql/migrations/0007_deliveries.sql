-- Signed webhooks, their delivery log, and redelivery.
--
-- signing_secrets  what a user's webhooks are signed with, encrypted. A rotated secret still signs beside the new one
--                  until `valid_until`, so that receivers can change over without losing a message.
-- deliveries       one row for each try of a webhook, and how it ended.
--
-- Locks: `webhooks` for a moment, to add columns with constant defaults. The running release can live beside it.

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

-- Who may call: users, the projects they work in, and the keys that stand for both.
--
-- A tenant is one (user, project) pair; every job belongs to exactly one, and the queue is keyed by
-- its number. A key is kept as a SHA-256 digest only: it is 256 random bits, so there is nothing
-- to guess and a slow hash would only slow down every heartbeat.
--
-- Locks: none that matter, the tables are new. The running release can live beside it.

create table users (
  id       uuid        primary key default gen_random_uuid(),
  username text        not null unique check (length(username) between 1 and 255),
  is_admin boolean     not null default false,
  created  timestamptz not null default now()
);

create unique index one_admin on users (is_admin) where is_admin;

create table tenants (
  id      bigint generated always as identity primary key,
  user_id uuid   not null references users on delete cascade,
  project text   not null check (length(project) <= 255),
  unique (user_id, project)
);

create table api_keys (
  id        uuid        primary key default gen_random_uuid(),
  tenant_id bigint      not null references tenants on delete cascade,
  org_name  text        not null check (length(org_name) between 1 and 255),
  digest    bytea       not null unique check (length(digest) = 32),
  created   timestamptz not null default now()
);

-- The administrator and a tenant to own what the administrator submits.
insert into users (username, is_admin) values ('admin', true);
insert into tenants (user_id, project) select id, '' from users where is_admin;

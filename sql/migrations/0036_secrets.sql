-- Secrets of a tenant, which jobs name and get with the answer to their claim. `sealed` is encrypted for `id`, which is a
-- new one with each value. `job_secrets` says which open jobs name one: while there are any, it cannot be removed. Its rows
-- go with those of the queue, by a trigger.
--
-- Locks: none that anything else waits for. The running release can live beside it: none of its jobs names a secret.

create table secrets (
  tenant_id bigint      not null references tenants on delete cascade,
  name      text        not null check (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'),
  id        uuid        not null unique,
  sealed    bytea       not null,
  set_at    timestamptz not null default now(),
  set_by    text        not null,
  primary key (tenant_id, name)
);

alter table secrets alter column sealed set storage external;

create table job_secrets (
  job_id    uuid   not null,
  tenant_id bigint not null,
  name      text   not null,
  primary key (job_id, name),
  constraint a_named_secret_is_there foreign key (tenant_id, name) references secrets
);

create index jobs_of_a_secret on job_secrets (tenant_id, name);

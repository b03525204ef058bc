-- What is set of a container group of a tenant besides its scaling rule.
--
-- group_settings  by the group's id in small letters. `defaults` are optional fields for submissions that leave them out.
--
-- Locks: none that anything waits for. The running release can live beside it: it submits without defaults.

create table group_settings (
  tenant_id       bigint      not null references tenants on delete cascade,
  container_group text        not null,
  defaults        jsonb,
  updated         timestamptz not null default now(),
  updated_by      text        not null,
  primary key (tenant_id, container_group),
  constraint defaults_are_an_object check (jsonb_typeof(defaults) = 'object')
);

-- The outbox: every webhook is written in the transaction that changes the job, and sent afterwards.
--
-- A row is due at `next_try`; whoever sends it moves that into the future first, so a sender that
-- dies loses nothing and two senders do not send the same one at once. A row is finished when it was
-- delivered or given up, and the sealed API key is erased with it.
--
-- Locks: none that matter, the table is new. The running release can live beside it.

create table webhooks (
  id              uuid        primary key default gen_random_uuid(),  -- the webhook-id that receivers see
  seq             bigint      generated always as identity unique,
  job_id          uuid        not null references jobs on delete cascade,
  url             text        not null,
  status          job_status  not null check (status in ('running', 'completed', 'failed')),
  machine_id      text        not null,
  container_group text        not null,
  sealed_key      bytea,
  created         timestamptz not null default now(),
  tries           integer     not null default 0,
  next_try        timestamptz default now(),
  delivered       timestamptz,
  given_up        timestamptz,
  last_status     integer,
  last_error      text,
  constraint due_or_finished check ((next_try is null) = (delivered is not null or given_up is not null)),
  constraint delivered_or_given_up check (num_nonnulls(delivered, given_up) <= 1),
  constraint a_finished_webhook_has_no_key check (next_try is not null or sealed_key is null)
) with (fillfactor = 80);

create index webhooks_due on webhooks (next_try) where next_try is not null;
create index webhooks_of_a_job on webhooks (job_id, seq);

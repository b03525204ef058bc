-- Wishes and limits end attempts: maintenance finds the jobs that it may have to end without a look at the others.
--
-- queue.fruitful_attempt  the attempts up to this one count for no limit of fruitless attempts: a person resumed the job.
-- webhooks.event          what a webhook tells of, where its job names the events; null: its status says it.
--
-- Heartbeats change neither column of the index, so they stay HOT; a claim writes an entry for a job with limits only.
--
-- Locks: `queue` against writing while it is read, a moment for a million rows; `webhooks` for a moment, to add a column and a
-- constraint that is not checked for the rows that are there. The running release can live beside it.

alter table queue add column fruitful_attempt integer not null default 0;

create index queue_to_be_ended on queue (job_id) where ends_on_lapse or deadline is not null;

alter table webhooks
  add column event text,
  drop constraint webhooks_status_check,
  add constraint webhooks_event_check check (
    event is null and status in ('running', 'completed', 'failed')
    or event is not null and event in ('running', 'failed', 'completed', 'canceled', 'interrupted', 'stalled', 'held')) not valid;

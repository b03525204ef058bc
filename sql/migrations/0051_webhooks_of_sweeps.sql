-- The end of a sweep is told to its webhook.
--
-- sweeps.webhook   the URL.
-- webhooks.sweep   what is said of a sweep that has ended: its id, name, and jobs by status. The row is one of the sweep's last
--                  job, so it goes with its history, and the sender of the release before can deliver it.
--
-- Locks: `sweeps` and `webhooks` for a moment; rows that are there are not read. The running release can live beside it: it ends no
-- sweep.

alter table sweeps add column webhook text;

alter table webhooks
  add column sweep jsonb,
  drop constraint webhooks_event_check,
  add constraint webhooks_event_check check (
    event is null and status in ('running', 'completed', 'failed')
    or event is not null
       and event in ('running', 'failed', 'completed', 'canceled', 'interrupted', 'stalled', 'held', 'sweep_ended')) not valid,
  add constraint only_the_end_of_a_sweep_tells_of_it check (
    (sweep is not null) = (event is not null and event = 'sweep_ended')) not valid;

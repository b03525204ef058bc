-- Whether the webhook of a job is told of an event: of those that the job names, without a word of three.
create or replace function is_told(webhook text, options jsonb, event text) returns boolean language sql immutable as $$
  select webhook is not null and coalesce(options -> 'webhook_events' ? event, event in ('running', 'failed', 'completed'))
$$;

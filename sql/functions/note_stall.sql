-- Writes the event of a stall that a holder told, once until it goes on, and the webhook of a job that wants to be told.
create or replace function note_stall() returns trigger language plpgsql as $$
begin
  insert into events (job_id, kind, actor, attempt, detail)
  values (new.job_id, 'stalled', 'machine:' || new.machine_id, new.attempt,
          jsonb_build_object('machine_id', new.machine_id, 'fraction', new.fraction));
  insert into webhooks (job_id, url, status, event, machine_id, container_group)
  select id, webhook, 'running', 'stalled', new.machine_id, new.holder_group
    from jobs
   where id = new.job_id
     and is_told(webhook, options, 'stalled');
  return null;
end $$;

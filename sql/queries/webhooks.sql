-- Statements on the outbox, in the order of a webhook's life. It is born in the statements of jobs.sql.

-- name: take_webhooks
-- Take due webhooks for sending: their next try moves into the future, so that no other sender takes them and
-- none is lost if this one dies. Per job in order: a webhook waits for its predecessors, but not longer than
-- 60 seconds of their retries, so a receiver that refuses `running` still hears `completed`.
with due as (
  select w.id
    from webhooks w
   where w.next_try <= now()
     and not exists (
           select from webhooks p
            where p.job_id = w.job_id
              and p.seq < w.seq
              and p.next_try is not null
              and p.created > now() - interval '60 seconds')
   order by w.next_try
   limit %(batch)s
     for update skip locked
)
update webhooks w
   set next_try = now() + %(hold)s, tries = w.tries + 1
  from due
 where w.id = due.id
returning w.id, w.job_id, w.url, w.status, w.machine_id, w.container_group, w.sealed_key, w.tries,
          now() - w.created as age;

-- name: webhook_delivered
update webhooks
   set delivered = now(), next_try = null, sealed_key = null, last_status = %(answer)s, last_error = null
 where id = %(id)s
   and next_try is not null;

-- name: webhook_given_up
update webhooks
   set given_up = now(), next_try = null, sealed_key = null, last_status = %(answer)s, last_error = %(error)s
 where id = %(id)s
   and next_try is not null;

-- name: webhook_failed
-- To be tried again after `pause`.
update webhooks
   set next_try = now() + %(pause)s, last_status = %(answer)s, last_error = %(error)s
 where id = %(id)s
   and next_try is not null;

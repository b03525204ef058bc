-- Statements on the outbox, in the order of a webhook's life. It begins in the statements of queue.

-- name: take_webhooks
-- Take due webhooks for sending, no more of a lane and of a user than there is room for; see functions/take_webhooks.sql.
select id, job_id, user_id, lane, url, status, event, sweep, machine_id, container_group, sealed_key, tries,
       tries - tries_before as tries_since, now() - due_since as age
  from take_webhooks(%(batch)s, %(hold)s, %(lane_cap)s, %(user_cap)s, %(lanes)s::uuid[], %(lane_rooms)s::integer[],
                     %(users)s::uuid[], %(user_rooms)s::integer[]);

-- name: webhook_delivered
-- Like the two that follow: no row if another sender has it meanwhile, for this one held it too long.
with webhook as (
  update webhooks
     set delivered = now(), next_try = null, under_way = false, sealed_key = null,
         last_status = %(answer)s, last_error = null
   where id = %(id)s
     and tries = %(tries)s
     and under_way
  returning id, tries
)
insert into deliveries (webhook_id, number, at, answer)
select id, tries, now() - %(took)s::interval, %(answer)s from webhook;

-- name: webhook_given_up
with webhook as (
  update webhooks
     set given_up = now(), next_try = null, under_way = false, sealed_key = null,
         last_status = %(answer)s, last_error = %(error)s
   where id = %(id)s
     and tries = %(tries)s
     and under_way
  returning id, tries
)
insert into deliveries (webhook_id, number, at, answer, error)
select id, tries, now() - %(took)s::interval, %(answer)s, %(error)s from webhook;

-- name: webhook_failed
-- To be tried again after `pause`.
with webhook as (
  update webhooks
     set next_try = now() + %(pause)s, under_way = false, last_status = %(answer)s, last_error = %(error)s
   where id = %(id)s
     and tries = %(tries)s
     and under_way
  returning id, tries
)
insert into deliveries (webhook_id, number, at, answer, error)
select id, tries, now() - %(took)s::interval, %(answer)s, %(error)s from webhook;

-- name: give_up_old_webhooks
-- What waited for a day ends, also if its lane was so long that it was never tried.
update webhooks
   set given_up = now(), next_try = null, under_way = false, sealed_key = null
 where id = any (array(
       select id
         from webhooks
        where next_try is not null
          and due_since < now() - %(age)s::interval
          and not (under_way and next_try > now())
        order by due_since
        limit 1000
          for update skip locked))
returning id, job_id, status, tries;

-- name: list_webhooks
select seq, id, status, event, url, machine_id, container_group as container_group_id, created,
       case when delivered is not null then 'delivered' when given_up is not null then 'given_up' else 'pending' end
         as state,
       tries, next_try, delivered, given_up
  from webhooks
 where job_id = %(job_id)s
   and seq > %(after)s
 order by seq
 limit %(most)s;

-- name: list_deliveries
-- The `most` newest tries of each webhook, oldest first: each redelivery adds a day of them.
select d.webhook_id, d.number, d.at, d.answer, d.error
  from unnest(%(webhook_ids)s::uuid[]) as w (id)
 cross join lateral (
       select *
         from deliveries d
        where d.webhook_id = w.id
        order by d.number desc
        limit %(most)s) d
 order by d.webhook_id, d.number;

-- name: redeliver_webhook
-- Due now, for a fresh day, and before its predecessors if they still wait. A finished webhook gets the key of
-- this caller, one that waits keeps its own. One that is being sent at this moment stays as it is. No row: unknown.
update webhooks
   set next_try = case when under_way and next_try > now() then next_try else now() end,
       due_since = case when under_way and next_try > now() then due_since else clock_timestamp() end,
       tries_before = case when next_try is null then tries else tries_before end,
       sealed_key = case when next_try is null then %(sealed_key)s::bytea else sealed_key end,
       delivered = null,
       given_up = null
 where id = %(id)s
   and job_id = %(job_id)s
returning id;

-- name: lock_user
-- For what changes a user's signing secrets; jobs and keys can still be made meanwhile.
select id from users where id = %(user_id)s for no key update;

-- name: list_signing_secrets
-- The valid ones, the current one first.
select id, sealed, created, valid_until
  from signing_secrets
 where user_id = %(user_id)s
   and (valid_until is null or valid_until > now())
 order by valid_until desc nulls first;

-- name: create_signing_secret
insert into signing_secrets (user_id, sealed)
values (%(user_id)s, %(sealed)s)
    on conflict (user_id) where valid_until is null do nothing;

-- name: end_previous_signing_secret
delete from signing_secrets where user_id = %(user_id)s and valid_until is not null;

-- name: retire_signing_secret
-- Before its successor is created.
update signing_secrets
   set valid_until = now() + %(overlap)s::interval
 where user_id = %(user_id)s
   and valid_until is null;

-- name: delete_signing_secret
delete from signing_secrets where id = %(id)s;

-- Statements on the requests that are sent to Salad with the coordinator's own key.

-- name: reserve_request
-- Take the place of one request; `wait` is in how many seconds it may be sent. Each request moves the row's clock on by
-- `space`; with `slack` a request may be that much ahead of it. No row: it would have to wait longer than its
-- `patience`, and took no place.
insert into salad_requests as r (next_at)
values (now() + %(space)s::interval)
    on conflict (only_row) do update
   set next_at = greatest(now(), unless_far_ahead(r.next_at), unless_far_ahead(r.silent_until)) + %(space)s::interval,
       silent_until = unless_far_ahead(r.silent_until)
 where greatest(unless_far_ahead(r.next_at) - %(slack)s::interval, unless_far_ahead(r.silent_until))
       <= now() + %(patience)s::interval
returning extract(epoch from greatest(now(), next_at - %(space)s::interval - %(slack)s::interval, silent_until)
                             - now())::float8 as wait;

-- name: next_request
-- In how many seconds a request could be sent for which `reserve_request` had no place.
select extract(epoch from greatest(now(), next_at - %(slack)s::interval, silent_until) - now())::float8 as wait
  from salad_requests;

-- name: silence_requests
-- No request before so long from now.
insert into salad_requests as r (next_at, silent_until)
values (now(), now() + %(silence)s::interval)
    on conflict (only_row) do update
   set silent_until = greatest(unless_far_ahead(r.silent_until), excluded.silent_until);

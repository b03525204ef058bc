-- The webhooks of a user that were given up, by when that was.
--
-- Locks: `webhooks` against writing while it is read, some seconds for ten million rows. The running release can live beside it. A
-- webhook is written into the index once, when it is given up.

create index webhooks_given_up on webhooks (user_id, given_up) where given_up is not null;

-- Statements on behalf of those who wait for work.

-- name: peek_at_lines
-- What those who wait could have; see the function. `lines` and `claims` are lists of objects.
select found_tenant_id as tenant_id, found_group as container_group, found_job_id as job_id,
       found_attempt as attempt, found_banned as banned, found_claim_id as claim_id
  from peek_at_lines(%(lines)s::jsonb, %(claims)s::jsonb);

-- name: prove_listener
-- A word that a listener must hear, sent over another connection than its own.
select pg_notify('kelpie_work', %(token)s);

-- name: listen
-- Only on a connection that serves nothing else.
listen kelpie_work;

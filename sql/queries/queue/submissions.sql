-- Statements on submissions: each makes its jobs or none.

-- name: submit_jobs
-- Create the jobs of one submission, or none; what is guaranteed, and when there is no row, stands in
-- functions/submit_batch.sql. What is sealed goes as bytes (`b`): psycopg takes 60 ms to write that of 1,000 jobs as text.
select (s.job).*, s.shared
  from submitted_batch(%(tenant_id)s, %(submitted)s::jsonb, %(sealed)b::bytea[], %(key)s, %(digest)s, %(job_ids)s, %(actor)s,
                       %(most_jobs)s, %(most_bytes)s, %(user_id)s) s;

-- name: count_open_jobs
-- The open jobs of a tenant, and the bytes of their definitions.
select coalesce(sum(jobs), 0)::bigint as jobs, coalesce(sum(bytes), 0)::bigint as bytes
  from open_job_counts
 where tenant_id = %(tenant_id)s;

-- name: find_submission
select digest, job_ids
  from submissions
 where tenant_id = %(tenant_id)s
   and key = %(key)s
   and created >= now() - interval '24 hours';

-- name: begin_bulk_change
-- Remember the key of a change of many jobs, and the number below which jobs are meant. No row: the key was used already.
insert into submissions (tenant_id, key, digest, below)
select %(tenant_id)s, %(key)s, %(digest)s::bytea, coalesce(max(seq), 0) + 1 from jobs
    on conflict (tenant_id, key) do update
   set digest = excluded.digest, job_ids = '{}', below = excluded.below, answer = null, created = now()
 where submissions.created < now() - interval '24 hours'
returning digest, below, answer;

-- name: find_bulk_change
select digest, below, answer
  from submissions
 where tenant_id = %(tenant_id)s
   and key = %(key)s
   and created >= now() - interval '24 hours';

-- name: end_bulk_change
-- Keep the answer of a change of many jobs, for a repetition.
update submissions
   set answer = %(answer)s::jsonb
 where tenant_id = %(tenant_id)s
   and key = %(key)s
   and below = %(below)s
   and answer is null;

-- name: first_tenant_of
-- Whose keys are meant where the administrator names a user. No row: there is no such user.
select id from tenants where user_id = %(user_id)s order by id limit 1;

-- name: get_submitted_jobs
-- The jobs of one submission as they are now, in the order in which they were submitted.
select *
  from visible_jobs
 where id = any (%(job_ids)s::uuid[])
   and of_tenant(tenant_id, %(scope)s)
   and of_group(coalesce(container_group_id, ''), %(groups)s)
 order by seq;

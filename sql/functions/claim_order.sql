-- The order in which jobs are claimed: the lower this number (`queue.rank`), the sooner, and of equal ones the oldest (`seq`).
--
--   1. By priority, the highest first.
--   2. Of one priority, the jobs that were handed out before and lost their holder (given back, failed or lapsed) come before
--      those that are new (pending): what was begun goes on before more is begun.
--   3. Of these, the oldest submission.
--
-- The number is -2 times the priority, plus one until the first handout, at which hand_out_job takes its lowest bit off
-- (`rank & -2`). It is written when a job is submitted, changed or handed out, so that the claim follows an index.
create or replace function claim_order(priority integer, is_new boolean) returns integer language sql immutable as $$
  select -2 * priority + is_new::integer
$$;

-- Whether a job without a holder is to be held for a person to look at: its last `most` attempts (null or 0: no limit) all
-- ended as interrupted, and none of them left a checkpoint or brought the progress beyond the best there was. A resume by a
-- person begins the count anew (fruitful_attempt). A function of its own, whose plans a session keeps; end_attempts asks it.
create or replace function too_many_fruitless_attempts(q queue, most integer) returns boolean language plpgsql stable
  set enable_seqscan = off
  set jit = off
as $$
begin
  return most > 0
         and q.attempt - greatest(q.fruitful_attempt, q.best_attempt) >= most
         and not exists (select from checkpoints c where c.job_id = q.job_id and c.attempt > q.attempt - most)
         and not exists (select
                           from attempts a
                          where a.job_id = q.job_id
                            and a.number > q.attempt - most
                            and a.outcome <> 'interrupted');
end $$;

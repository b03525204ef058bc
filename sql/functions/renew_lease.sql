-- Renew a lease that its holder still has, also one that lapsed and was not claimed since. Without an attempt (the original's
-- worker) the machine alone is compared. What the holder says of the job is kept: in the queue its phase and fraction, all else
-- of its progress in a row of its own (tell_progress); null is nothing new. The answer has what is wished of the holder, and the
-- seconds until its time is over. No row: the caller does not hold this job.
--
-- The commit is not waited for unless progress came, which workers tell once: what a crash of Postgres may take back else is told
-- again by the next heartbeat, and after a crash no lease lapses before its holder had two intervals for that
-- (silence_counts_from). Whatever is committed later takes it to the disk as well, the liveness row twice a second. Where a
-- standby is synchronous it is waited for as ever: a primary that was cut off from it, and whose place it took, must answer no
-- holder that it still has the lease, for the new one hands the job out.
--
-- It is a function for the reasons that hand_out_job is one: to plan this takes as long as to carry it out.
create or replace function renew_lease(
  the_job_id uuid, scope bigint, groups text[], the_machine_id text, the_attempt integer, the_checkpoint_lag integer,
  the_phase text, the_fraction double precision, the_said json, the_point json, the_output_bytes bigint
) returns table (steers boolean, wish text, seconds_left double precision, watched boolean) language plpgsql
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
as $$
#variable_conflict use_column
declare
  the_number integer;
begin
  update queue q
     set heartbeat = now(), num_heartbeats = num_heartbeats + 1, checkpoint_lag = the_checkpoint_lag,
         phase = coalesce(the_phase, phase),
         fraction = coalesce(the_fraction, fraction),
         best_fraction = greatest(the_fraction, best_fraction),
         best_attempt = case when the_fraction::real > coalesce(best_fraction, -1) then attempt else best_attempt end,
         stalls = case when the_fraction::real > coalesce(best_fraction, -1) then 0 else stalls end,
         fraction_at = case when the_fraction::real <> fraction or (fraction is null and the_fraction::real is not null)
                            then now()
                            else fraction_at
                       end
   where job_id = the_job_id
     and held_by(q, scope, groups, the_machine_id, the_attempt)
  returning attempt, coalesce('steer' = any (speaks), false),
            case when deadline < now() and q.wish is distinct from 'cancel' then 'time_limit' else q.wish end,
            extract(epoch from deadline - now())::float8,
            watched_until > now() and 'output' = any (speaks)
       into the_number, steers, wish, seconds_left, watched;
  if not found then
    return;
  end if;
  if num_nonnulls(the_said, the_output_bytes) > 0 then
    perform tell_progress(the_job_id, the_number, the_said, the_fraction, the_point, the_output_bytes);
  end if;
  if the_said is null and current_setting('synchronous_standby_names') = '' then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  return next;
end $$;

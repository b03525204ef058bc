-- See to jobs of which a wish or a limit says what comes next, `most` at a time or one (`the_job_id`); their number.
--
-- Which: those that were given back with a wish or a limit (ends_on_lapse without a holder); those whose holder fell
-- silent; those whose holder has neither beaten nor ended since a wish for its interval and 90 seconds (30 for its grace
-- and 60 besides), outages of the coordinator left out; and those whose time is over: at once where the holder cannot be
-- told (it speaks no `steer`), else after as long. The attempt of a holder ends as interrupted.
--
-- A row of a sweep that neither a wish nor a limit of the job marked was marked by fill_sweep, while more jobs were held than the
-- sweep's limit allowed. Whether that is so still is judged now, at the lapse: if it is not, the mark is taken away and the attempt
-- goes on, as after any lapse, until a claim takes the job or its holder is heard of.
--
-- What becomes of the others, the first that holds:
--   * canceled, if that is wished;
--   * failed, if the time of all attempts is used up (time_limit) or the job was handed out often enough (attempts);
--   * held, if that is wished, or after max_fruitless_attempts attempts in a row that led nowhere
--     (too_many_fruitless_attempts);
--   * claimable.
--
-- Locks: rows of the queue that no other transaction holds, each before what belongs to it. It waits for none, so a report
-- or a claim at the same moment goes first, and this looks again in two seconds. Of a sweep it takes the row shared, as end_holding
-- does: what holds that row exclusively waits for no row of the queue.
create or replace function end_attempts(the_job_id uuid, most integer) returns integer language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
declare
  patience constant interval := '90 seconds';
  q        queue;
  j        jobs;
  verdict  text;
  why      text;
  actor    text;
  cut      text;
  seen     integer := 0;
begin
  for q in
    select *
      from queue w
     where (w.ends_on_lapse or w.deadline is not null)
       -- Of one job its entry in the index is looked at, also by a plan that serves for all jobs.
       and w.job_id between coalesce(the_job_id, '00000000-0000-0000-0000-000000000000')
                        and coalesce(the_job_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
       and case when w.machine_id is null then w.ends_on_lapse
                when w.ends_on_lapse and lapsed(w.heartbeat, w.heartbeat_interval) then true
                when w.wish is not null
                     and greatest(w.wished_at, w.heartbeat) + w.heartbeat_interval * interval '1 second' + patience < now()
                then silence_counts_from(w.heartbeat_interval) + w.heartbeat_interval * interval '1 second' + patience < now()
                else w.deadline + case when 'steer' = any (w.speaks)
                                       then w.heartbeat_interval * interval '1 second' + patience
                                       else interval '0'
                                  end < now()
           end
     order by w.job_id
     limit most
       for update skip locked
  loop
    seen := seen + 1;
    if q.machine_id is not null and q.sweep_id is not null and q.wish is null and lapsed(q.heartbeat, q.heartbeat_interval)
       and coalesce(q.attempt < q.ends_from_attempt, true) and not exceeds_sweep(q.sweep_id) then
      update queue set ends_on_lapse = false where job_id = q.job_id;
      continue;
    end if;
    select * into j from jobs where id = q.job_id;
    if q.machine_id is not null then
      cut := case when q.deadline < now() and not lapsed(q.heartbeat, q.heartbeat_interval) then 'time_limit' else q.wish end;
      insert into attempt_ends (job_id, number, outcome, last_heartbeat, reason)
      values (q.job_id, q.attempt, 'interrupted', q.heartbeat, cut);
      insert into events (job_id, kind, actor, attempt, detail)
      values (q.job_id, 'interrupted', 'coordinator', q.attempt, jsonb_strip_nulls(jsonb_build_object(
                'machine_id', q.machine_id, 'last_heartbeat', q.heartbeat, 'reason', cut)));
      update jobs set heartbeat = q.heartbeat, num_heartbeats = q.num_heartbeats where id = q.job_id;
      if is_told(j.webhook, j.options, 'interrupted') then
        insert into webhooks (job_id, url, status, event, machine_id, container_group)
        values (j.id, j.webhook, 'running', 'interrupted', q.machine_id, q.holder_group);
      end if;
      update queue
         set machine_id = null, holder_group = null, claim_id = null, heartbeat = null, ends_on_lapse = true
       where job_id = q.job_id
      returning * into q;
    end if;

    actor := coalesce(q.wish_by, 'coordinator');
    if q.wish = 'cancel' then
      verdict := 'canceled';
      why := null;
    elsif q.seconds_left <= 0 then
      verdict := 'failed';
      why := 'time_limit';
    elsif q.attempt >= nullif((j.options ->> 'max_attempts')::integer, 0) then
      verdict := 'failed';
      why := 'attempts';
    elsif q.wish = 'hold' then
      verdict := 'held';
      why := null;
    elsif too_many_fruitless_attempts(q, (j.options ->> 'max_fruitless_attempts')::integer) then
      verdict := 'held';
      why := 'fruitless';
    else
      verdict := 'claimable';
      why := null;
    end if;

    if verdict in ('canceled', 'failed') then
      delete from queue where job_id = q.job_id;
      update jobs
         set status = verdict::job_status, reason = why,
             canceled = case when verdict = 'canceled' then now() end,
             failed = case when verdict = 'failed' then now() end
       where id = q.job_id;
      insert into events (job_id, kind, actor, attempt, detail)
      values (q.job_id, verdict, case when verdict = 'canceled' then actor else 'coordinator' end, q.attempt,
              jsonb_strip_nulls(jsonb_build_object('reason', why)));
    else
      update queue
         set parked = case when verdict = 'held' then parked else without_reason(parked, 'hold') end,
             ends_on_lapse = false, wish = null, wished_at = null, wish_by = null
       where job_id = q.job_id;
      if verdict = 'held' then
        update jobs set reason = coalesce(why, reason) where id = q.job_id;
        insert into events (job_id, kind, actor, attempt, detail)
        values (q.job_id, 'parked', case when why is null then actor else 'coordinator' end, q.attempt,
                jsonb_strip_nulls(jsonb_build_object('parked', 'hold', 'reason', why)));
      end if;
    end if;
    if verdict <> 'claimable' and is_told(j.webhook, j.options, verdict) then
      insert into webhooks (job_id, url, status, event, machine_id, container_group)
      values (j.id, j.webhook, case when verdict = 'held' then 'running' else verdict end::job_status,
              case when j.options ? 'webhook_events' then verdict end, coalesce(j.machine_id, ''),
              coalesce(j.container_group, ''));
    end if;
  end loop;
  return seen;
end $$;

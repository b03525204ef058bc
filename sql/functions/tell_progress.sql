-- Keep what a heartbeat told of a job's progress; each value but the attempt may be null, for nothing new. `the_point` is what
-- goes into the plot: {"step", "metrics"}. Called for the holder only, with its row in the queue locked.
--
-- The first fraction of an attempt is where its rate begins; after an earlier one it is where a resume went back to.
--
-- A point is written once the interval has passed. The 500th removes each second point and doubles the interval.
create or replace function tell_progress(
  the_job_id uuid, the_attempt integer, the_said json, the_fraction double precision, the_point json,
  the_output_bytes bigint
) returns boolean language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
declare
  kept progress;
begin
  insert into progress as p (job_id, attempt, said, said_at, said_fraction, changed_at, first_fraction, first_at, output_bytes,
                             points, point_number, last_point)
  values (the_job_id, the_attempt, the_said, case when the_said is not null then now() end,
          the_fraction, case when the_fraction is not null then now() end,
          the_fraction, case when the_fraction is not null then now() end, the_output_bytes,
          num_nonnulls(the_said), num_nonnulls(the_said), case when the_said is not null then now() end)
      on conflict (job_id) do update
     set attempt = excluded.attempt,
         said = coalesce(excluded.said, p.said),
         said_at = coalesce(excluded.said_at, p.said_at),
         output_bytes = case when p.attempt = excluded.attempt then coalesce(excluded.output_bytes, p.output_bytes)
                             else excluded.output_bytes
                        end,
         said_fraction = coalesce(excluded.said_fraction, p.said_fraction),
         changed_at = case when excluded.said_fraction <> p.said_fraction or p.said_fraction is null or p.attempt <> excluded.attempt
                            then coalesce(excluded.changed_at, p.changed_at)
                            else p.changed_at
                       end,
         first_fraction = case when p.attempt = excluded.attempt then coalesce(p.first_fraction, excluded.said_fraction)
                               else excluded.said_fraction
                          end,
         first_at = case when p.attempt = excluded.attempt then coalesce(p.first_at, excluded.first_at)
                         else excluded.first_at
                    end,
         (went_from, went_to, went_in) = (
           select case when is_first then p.said_fraction else p.went_from end,
                  case when is_first then excluded.said_fraction else p.went_to end,
                  case when is_first then excluded.attempt else p.went_in end
             from (select excluded.said_fraction is not null
                          and p.said_fraction is not null
                          and (p.attempt <> excluded.attempt or p.first_fraction is null) as is_first) f),
         (points, point_number, last_point) = (
           select p.points + is_due::integer, p.point_number + is_due::integer,
                  case when is_due then now() else p.last_point end
             from (select excluded.said is not null
                          and coalesce(p.last_point + p.point_seconds * interval '1 second' <= now(), true) as is_due) d)
   where excluded.said is not null
      or excluded.output_bytes is distinct from p.output_bytes
  returning p.* into kept;
  if kept.last_point = now() then
    insert into progress_points (job_id, number, attempt, at, fraction, step, metrics)
    values (the_job_id, kept.point_number, the_attempt, now(), the_fraction,
            (the_point ->> 'step')::double precision, the_point -> 'metrics');
  end if;
  if kept.points >= 500 then
    delete from progress_points p
     using (select number, row_number() over (order by number) as place from progress_points where job_id = the_job_id) n
     where p.job_id = the_job_id
       and p.number = n.number
       and n.place % 2 = 0;
    update progress set points = points / 2, point_seconds = point_seconds * 2 where job_id = the_job_id;
  end if;
  return kept.job_id is not null;
end $$;

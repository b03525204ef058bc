-- Keep what the report of an attempt's end told of its progress, as tell_progress does; null for nothing new. What the last
-- heartbeat told already is not told again: it would count as new from the moment of the report.
create or replace function tell_last_progress(
  the_job_id uuid, the_attempt integer, the_said json, the_fraction double precision, the_point json,
  the_output_bytes bigint
) returns boolean language sql
as $$
  select tell_progress(the_job_id, the_attempt, case when is_new then the_said end, case when is_new then the_fraction end,
                       the_point, the_output_bytes)
    from (select the_said::text <> coalesce((select p.said::text
                                               from progress p
                                              where p.job_id = the_job_id
                                                and p.attempt = the_attempt), '') as is_new) as told
   where is_new
      or the_output_bytes is not null
$$;

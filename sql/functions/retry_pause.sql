-- For how many seconds a job is parked after a failure that its retry rule matched; null where the rule asks for no pause, or
-- does not hand the job out again. It is the rule's own `backoff`, else for `free` 10 seconds, doubled for each failure right
-- before this one, up to 300: a free failure is not counted, so only the pause keeps it from coming back at once.
create or replace function retry_pause(rule jsonb, the_job_id uuid, the_attempt integer) returns integer
language plpgsql stable
  set enable_seqscan = off
  set jit = off
as $$
declare
  in_a_row integer;
begin
  if coalesce(rule ->> 'do', '') not in ('retry', 'free') then
    return null;
  elsif rule ->> 'backoff' is not null or rule ->> 'do' = 'retry' then
    return (rule ->> 'backoff')::integer;
  end if;
  select count(*)
    into in_a_row
    from attempts a
   where a.job_id = the_job_id
     and a.number between the_attempt - 5 and the_attempt - 1
     and a.outcome = 'failed'
     and not exists (select
                       from attempts b
                      where b.job_id = the_job_id
                        and b.number between a.number + 1 and the_attempt - 1
                        and b.outcome <> 'failed');
  return least(300, 10 * 2 ^ in_a_row);
end $$;

-- After how many releases a machine waits for a job that it takes and gives back again and again, and for how long. Asked when
-- it gives the job back once more, before that release counts. No row: the job is not in such a loop.
--
--   * A job is in a loop from its tenth release within a minute on, by whichever machines: a row for the machine and one for
--     all machines ('', the pause of a machine without a name), `pause` null where none is due yet.
--   * The tenth release by one machine within a minute makes this machine wait, up to five minutes. Others may have the job
--     meanwhile.
--   * The thirtieth by whichever machines (callers choose their names) makes the job wait for all, up to one minute.
--   * A pause is 10 seconds at first (`level` 1); each release within a minute after such a pause doubles it (the next level).
--
-- Of the attempts the last hundred are looked at. What is returned is kept in `pauses` by release_job; whether a machine has to
-- wait, has_to_wait says.
create or replace function release_pauses(the_job_id uuid, the_attempt integer, the_machine_id text) returns table (
  machine_id text, level integer, pause interval
) language plpgsql stable
  set enable_seqscan = off
  set jit = off
as $$
#variable_conflict use_column
begin
return query
with recent as materialized (
  select count(*) as releases, count(*) filter (where a.machine_id = the_machine_id) as by_this_machine
    from attempts a
   where a.job_id = the_job_id
     and a.number between the_attempt - 100 and the_attempt - 1
     and a.outcome = 'released'
     and a.ended > now() - interval '1 minute'
)
select w.machine_id,
       case when again then k.level + 1 else 1 end,
       case when again then least(interval '10 seconds' * 2 ^ least(k.level, 5), w.longest)
            when w.is_due then interval '10 seconds'
       end
  from recent r
 cross join lateral (values (the_machine_id, r.by_this_machine >= 9, interval '5 minutes'),
                            ('', r.releases >= 29, interval '1 minute')) as w (machine_id, is_due, longest)
  left join pauses k on k.job_id = the_job_id and k.machine_id = w.machine_id
 cross join lateral (select coalesce(k.until > now() - interval '1 minute', false) as again) n
 where r.releases >= 9
    or again;
end $$;

-- A number from which on all jobs are that were created at this time or later; null: none was. Numbers are given in the order
-- of submissions, but for those that run at the same time, and none of these takes an hour. So it is found in some forty steps
-- of halving, without an index of times.
create or replace function first_number_since(since timestamptz) returns bigint language plpgsql stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
as $$
declare
  lowest  bigint := 0;
  highest bigint := (select max(seq) + 1 from jobs);
  middle  bigint;
  looked_at record;
begin
  while lowest < highest loop
    middle := lowest + (highest - lowest) / 2;
    select seq, created into looked_at from jobs where seq >= middle order by seq limit 1;
    if looked_at.created >= since - interval '1 hour' then
      highest := middle;
    else
      lowest := looked_at.seq + 1;
    end if;
  end loop;
  return lowest;
end $$;

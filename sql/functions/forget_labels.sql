-- Removes the labels of jobs that are removed, by whichever statement.
create or replace function forget_labels() returns trigger language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  delete from job_labels l
   using gone g
   cross join lateral jsonb_each_text(g.labels) as label (key, value)
   where l.tenant_id = g.tenant_id
     and l.key = label.key
     and l.value = label.value
     and l.seq = g.seq;
  return null;
end $$;

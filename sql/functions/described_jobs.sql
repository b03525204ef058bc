-- Jobs by their numbers, in the order of these, as users see them, with what is shown of their newest checkpoint and their
-- progress; `bytes` is about what each takes in an answer. Which callers may see them is not asked here.
--
-- It is a function for the reasons that page_of_jobs is one: to plan this takes longer than to read one job by it. Each job is
-- found as ids_of_numbers finds it.
create or replace function described_jobs(the_numbers bigint[]) returns table (
  job visible_jobs, bytes bigint, checkpoint_generation bigint, checkpoint_at timestamptz, checkpoint_bytes bigint,
  said json, said_at timestamptz, said_fraction double precision, changed_at timestamptz,
  first_fraction double precision, first_at timestamptz, is_live boolean
) language plpgsql stable
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
#variable_conflict use_column
begin
return query
select s::visible_jobs,
       (octet_length(s.arguments::text) + coalesce(octet_length(s.environment::text), octet_length(s.sealed_environment))
        + coalesce(octet_length(s.sync::text), 0) + coalesce(octet_length(p.said::text), 0))::bigint,
       c.generation, c.reported, c.bytes,
       p.said, p.said_at, p.said_fraction, p.changed_at, p.first_fraction, p.first_at,
       p.attempt = s.attempt and s.phase in ('running', 'stalled', 'downloading', 'uploading')
  from unnest(the_numbers) with ordinality as page (seq, place)
 cross join lateral (
       select * from visible_jobs where visible_jobs.seq between page.seq and page.seq order by visible_jobs.seq limit 1) s
  left join lateral (
       select generation, reported, bytes from checkpoints where job_id = s.id order by attempt desc, generation desc limit 1
       ) c on true
  left join lateral (select * from progress where progress.job_id = s.id limit 1) p on true
 order by page.place;
end $$;

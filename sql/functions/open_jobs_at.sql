-- Of each of these places (`bucket/prefix/`) an open job of the tenant that keeps its checkpoints there, in a folder within,
-- or in a folder around it, if there is one.
--
-- Folders around a place are compared down to the 40th level. It is a function for the reasons that hand_out_job is one.
create or replace function open_jobs_at(the_tenant_id bigint, the_places text[]) returns table (
  asked_place text, found_job_id uuid, found_place text
) language plpgsql stable
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
begin
return query
select asked.place, found.job_id, found.place
  from unnest(the_places) as asked (place)
 cross join lateral (
       (select d.job_id, d.place
          from during_prefixes d
         where d.tenant_id = the_tenant_id
           and left(d.place, 600) >= left(asked.place, 600)
           -- The character after the slash: the end of all that begins with this place, which ends in a slash.
           and left(d.place, 600) < left(asked.place, least(length(asked.place) - 1, 600)) || '0'
           and starts_with(d.place, asked.place)
         limit 1)
        union all
       (select within.job_id, within.place
          from generate_series(2, least(cardinality(string_to_array(asked.place, '/')) - 2, 40)) as level
         cross join lateral (
               select array_to_string((string_to_array(asked.place, '/'))[1:level], '/') || '/' as place) around
         -- The limit keeps this inside: else a plan may read all places of the tenant and look for each among the folders.
         cross join lateral (
               select d.job_id, d.place
                 from during_prefixes d
                where d.tenant_id = the_tenant_id
                  and left(d.place, 600) = left(around.place, 600)
                  and d.place = around.place
                limit 1) within
         limit 1)
        limit 1) found;
end $$;

-- Create all the jobs of one submission, or none; a batch keeps its own order. `the_submitted` is a list of objects with the
-- columns of jobs, `the_sealed` has the sealed environment of each job at its place (null: no job has one). With a key it is
-- remembered for a day; a concurrent submission with the same key waits until the first one
-- has ended. No row: the key was used already, or the tenant would have more than `most_jobs` open jobs or `most_bytes` of them
-- (0: no limit). Optional fields that are left out are the defaults of the job's group; of secrets that do not fit the job is refused
-- (refuse_default_secrets). Each job is answered with the reasons for
-- which it is parked at once, and with `shared`: which of its places another open job keeps its checkpoints in, or in a folder
-- within or around: [place, job, its place].
--
-- It is a function for the reasons that hand_out_job is one: to plan this takes as long as to submit one job by it. Hash joins
-- are left to the planner, since a batch joins a thousand rows with a thousand.
create or replace function submit_batch(
  the_tenant_id bigint, the_submitted jsonb, the_sealed bytea[], the_key text, the_digest bytea, the_job_ids uuid[],
  the_actor text, most_jobs bigint, most_bytes bigint
) returns table (job jobs, parked_for text[], shared_places jsonb) language plpgsql
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
as $$
#variable_conflict use_column
begin
if exists (select from group_settings d where d.tenant_id = the_tenant_id and d.defaults ? 'secrets') then
  perform refuse_default_secrets(the_tenant_id, the_submitted);
end if;
return query
with given as materialized (
  select *
    from rows from (
    jsonb_to_recordset(the_submitted) as (
      id uuid, container_group text, command text, arguments jsonb, environment jsonb, sync jsonb,
      input_bucket text, input_prefix text, checkpoint_bucket text, checkpoint_prefix text,
      output_bucket text, output_prefix text, compression boolean, max_failures integer,
      heartbeat_interval integer, webhook text, places text[], name text, labels jsonb, priority smallint,
      rerun_of uuid, options jsonb, sweep_id uuid, waits_for integer)
  ) with ordinality as s (
      id, container_group, command, arguments, environment, sync, input_bucket, input_prefix,
      checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix, compression, max_failures,
      heartbeat_interval, webhook, places, name, labels, priority, rerun_of, options, sweep_id, waits_for, place)
),
with_defaults as materialized (
  select g.*, coalesce(g.name, d.defaults ->> 'name') as the_name, coalesce(g.labels, d.defaults -> 'labels') as the_labels,
         coalesce(g.priority, (d.defaults ->> 'priority')::smallint, 0) as the_priority,
         nullif(coalesce(d.defaults - array['name', 'labels', 'priority'], '{}') || coalesce(g.options, '{}'), '{}')
         as the_options
    from given g
    left join group_settings d on d.tenant_id = the_tenant_id and d.container_group = lower(g.container_group)
),
asked as materialized (
  select *, octet_length(concat(command, arguments, environment, sync, input_bucket, input_prefix, checkpoint_bucket,
                                checkpoint_prefix, output_bucket, output_prefix, webhook, the_name, the_labels, the_options))
            + coalesce(octet_length(the_sealed[place]), 0) as bytes
    from with_defaults
),
room as materialized (
  select has_room_for(the_tenant_id, count(*), sum(bytes), most_jobs, most_bytes) as is_enough from asked
),
remembered as (
  insert into submissions (tenant_id, key, digest, job_ids)
  select the_tenant_id, the_key, the_digest, the_job_ids
   where the_key is not null
     and (select is_enough from room)
      on conflict (tenant_id, key) do update
     set digest = excluded.digest, job_ids = excluded.job_ids, below = null, answer = null, created = now()
   where submissions.created < now() - interval '24 hours'
  returning key
),
submitted as (
  select *
    from asked
   where (select is_enough from room)
     and (the_key is null or exists (select from remembered))
),
created as (
  insert into jobs (id, tenant_id, container_group, command, arguments, environment, sync, input_bucket,
                    input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
                    compression, max_failures, heartbeat_interval, webhook, name, labels, priority, rerun_of, options,
                    sealed_environment, sweep_id)
  select id, the_tenant_id, container_group, command, arguments, environment, sync, input_bucket,
         input_prefix, checkpoint_bucket, checkpoint_prefix, output_bucket, output_prefix,
         compression, max_failures, heartbeat_interval, webhook, the_name, the_labels, the_priority, rerun_of, the_options,
         the_sealed[place], sweep_id
    from submitted
   order by place
  returning *
),
queued as (
  insert into queue (job_id, tenant_id, container_group, seq, rank, heartbeat_interval, bytes, ends_from_attempt,
                     attempt_seconds, seconds_left, sweep_id, waits_for, parked)
  select c.id, c.tenant_id, coalesce(c.container_group, ''), c.seq, claim_order(c.priority, true), c.heartbeat_interval, s.bytes,
         ends_from_attempt(c.options), (c.options ->> 'max_attempt_runtime')::integer, (c.options ->> 'max_runtime')::integer,
         s.sweep_id, coalesce(s.waits_for, 0), case when s.waits_for > 0 then array['depends'] end
    from created c
    join submitted s using (id)
),
labeled as (
  insert into job_labels (tenant_id, key, value, seq)
  select c.tenant_id, label.key, label.value, c.seq
    from created c
   cross join lateral jsonb_each_text(c.labels) as label (key, value)
   where c.labels is not null
),
told as (
  insert into events (job_id, kind, actor, attempt, detail)
  select id, 'submitted', the_actor, 0, jsonb_strip_nulls(jsonb_build_object('rerun_of', rerun_of)) from created order by seq
),
paused as materialized (
  select container_group from paused_groups where tenant_id = the_tenant_id
),
places as materialized (
  select c.id as job_id, p.place
    from created c
    join submitted using (id)
   cross join lateral unnest(places) as p (place)
),
named as (
  insert into job_secrets (job_id, tenant_id, name)
  select c.id, c.tenant_id, s.name
    from created c
   cross join lateral jsonb_array_elements_text(c.options -> 'secrets') as s (name)
   where c.options ? 'secrets'
),
noted as (
  insert into during_prefixes (tenant_id, job_id, place)
  select the_tenant_id, job_id, place from places
),
taken as materialized (
  select asked_place, found_job_id, found_place
    from open_jobs_at(the_tenant_id, array(select distinct place from places))
),
shared as materialized (
  select p.job_id, jsonb_agg(jsonb_build_array(t.asked_place, t.found_job_id, t.found_place)) as shared
    from places p
    join taken t on t.asked_place = p.place
   group by p.job_id
)
select c::jobs, case when p.container_group is not null then array['paused'] end,
       (select s.shared from shared s where s.job_id = c.id)
  from created c
  left join paused p on p.container_group = lower(c.container_group);
end $$;

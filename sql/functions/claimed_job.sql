-- The job that hand_out_job hands out, as users see it. To plan the columns of a job takes longer than to show one, and a session
-- keeps the plan of a function.
create or replace function claimed_job(
  the_tenant_id bigint, the_container_group text, the_machine_id text, the_claim_id uuid, the_actor text,
  the_sealed_key bytea, the_lines text[], the_speaks text[], the_user_id uuid
) returns setof visible_jobs language plpgsql
  set plan_cache_mode = force_generic_plan
as $$
begin
return query
select s.*
  from hand_out_job(the_tenant_id, the_container_group, the_machine_id, the_claim_id, the_actor, the_sealed_key, the_lines,
                    the_speaks) j
 cross join lateral visible_job(j, the_user_id, now(), null) s;
end $$;

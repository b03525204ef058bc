-- Has the webhook `running` of a job that waits to be delivered, if there is one, tell of a later handout instead; whether there
-- was one. One that is being sent at this moment is left as it is. For handouts in a loop of claims and releases only: any
-- other has a webhook of its own.
create or replace function take_over_webhook(
  the_job_id uuid, the_machine_id text, the_container_group text, the_sealed_key bytea
) returns boolean language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
begin
  update webhooks
     set machine_id = the_machine_id, container_group = the_container_group, sealed_key = the_sealed_key
   where id = (select id
                 from webhooks
                where job_id = the_job_id
                  and status = 'running'
                  and coalesce(event, 'running') = 'running'
                  and num_nonnulls(next_try) = 1
                  and not under_way
                order by seq desc
                limit 1
                  for update skip locked);
  return found;
end $$;

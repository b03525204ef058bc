-- Keep a piece of the output of an attempt, and of all of them the last `the_most` bytes; the offset after all that came is
-- answered. Called for the holder only, with its row in the queue locked against the attempt's end.
--
-- What is known already (the piece was sent again, or overlaps) changes nothing. With the first piece of an attempt the output of
-- those before the last five goes.
--
-- The commit is not waited for, unless a standby is synchronous (renew_lease says more): a crash of Postgres may leave a hole of
-- what was sent in its last half second. The report of the attempt's end takes what came before it to the disk.
create or replace function keep_piece(
  the_job_id uuid, the_attempt integer, the_tenant_id bigint, the_most integer, the_start bigint, the_content bytea
) returns bigint language plpgsql
  set enable_seqscan = off
  set jit = off
as $$
declare
  known outputs;
  fresh bytea;
  begins bigint;
  removed bigint := 0;
  gone bigint := 0;
begin
  if current_setting('synchronous_standby_names') = '' then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  select * into known from outputs where job_id = the_job_id and attempt = the_attempt for update;
  if not found then
    insert into outputs (job_id, attempt, tenant_id)
    values (the_job_id, the_attempt, the_tenant_id)
        on conflict do nothing;
    if found then
      delete from output_pieces where job_id = the_job_id and attempt <= the_attempt - 5;
      with old as (
        delete from outputs where job_id = the_job_id and attempt <= the_attempt - 5
        returning kept
      )
      select coalesce(sum(kept), 0) into removed from old;
    end if;
    select * into known from outputs where job_id = the_job_id and attempt = the_attempt for update;
  end if;
  begins := greatest(the_start, known.next);
  fresh := case when begins - the_start < octet_length(the_content)
                then substr(the_content, (begins - the_start + 1)::integer)
                else ''
           end;
  if octet_length(fresh) = 0 then
    insert into output_sizes (tenant_id, bytes) select the_tenant_id, -removed where removed > 0;
    return known.next;
  end if;
  known.next := begins + octet_length(fresh);
  if octet_length(fresh) > the_most then
    fresh := substr(fresh, octet_length(fresh) - the_most + 1);
    begins := known.next - the_most;
  end if;
  update output_pieces p
     set content = p.content || fresh
   where p.job_id = the_job_id
     and p.attempt = the_attempt
     and p.start = (select max(l.start) from output_pieces l where l.job_id = the_job_id and l.attempt = the_attempt)
     and p.start + octet_length(p.content) = begins
     and octet_length(p.content) + octet_length(fresh) <= 4096;
  if not found then
    insert into output_pieces (job_id, attempt, start, content) values (the_job_id, the_attempt, begins, fresh);
  end if;
  if known.next > the_most then
    with old as (
      delete from output_pieces p
       where p.job_id = the_job_id
         and p.attempt = the_attempt
         and p.start + octet_length(p.content) <= known.next - the_most
      returning octet_length(p.content) as bytes
    )
    select coalesce(sum(bytes), 0) into gone from old;
  end if;
  update outputs
     set next = known.next, kept = kept + octet_length(fresh) - gone, last_at = now()
   where job_id = the_job_id
     and attempt = the_attempt;
  insert into output_sizes (tenant_id, bytes) values (the_tenant_id, octet_length(fresh) - gone - removed);
  return known.next;
end $$;

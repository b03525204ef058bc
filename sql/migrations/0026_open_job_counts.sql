-- How many jobs of a tenant are open and how large they are, for limits: to count them at each submission would take longer
-- the more there are.
--
-- queue.bytes      the size of a job's definition, as submit_jobs counts it. A job that was open before has 0, and so has one
--                  that the running release submits meanwhile.
-- open_job_counts  what came and went: the sums of a tenant's rows are its open jobs and their bytes. Triggers of `queue` only
--                  insert, so that neither submissions nor reports wait for each other; the rows are added up every
--                  few seconds (settle_open_job_counts).
--
-- Locks: `queue` against all while its rows are counted, about a quarter of a second for a million. The running release
-- can live beside it: the triggers count its jobs, too.

alter table queue add column bytes integer not null default 0;

create table open_job_counts (
  tenant_id bigint not null,
  jobs      bigint not null,
  bytes     bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create index open_job_counts_of_a_tenant on open_job_counts (tenant_id);

-- Declared for its trigger; what it does stands in functions/count_submitted.sql.
create function count_submitted() returns trigger language plpgsql as 'begin return null; end';

create trigger count_submitted after insert on queue
  referencing new table as submitted
  for each statement execute function count_submitted();

insert into open_job_counts (tenant_id, jobs, bytes)
select tenant_id, count(*), 0 from queue group by tenant_id;

-- Statements on scaling rules and what the autoscaler does with them. `scope` is the tenant whose rules the caller may
-- touch (null: of all), `groups` the container groups (null: of all).

-- name: create_rule
-- No row: the group has a rule.
insert into scaling_rules (container_group_id, tenant_id, org_name, project_name, container_group_name, min_replicas,
                           max_replicas, idle_threshold_seconds)
values (%(container_group_id)s, %(tenant_id)s, %(org_name)s, %(project_name)s, %(container_group_name)s,
        %(min_replicas)s, %(max_replicas)s, %(idle_threshold_seconds)s)
    on conflict (container_group_id) do nothing
returning container_group_id, %(user_id)s::uuid as user_id, org_name, project_name, container_group_name, min_replicas,
          max_replicas, idle_threshold_seconds, created, updated;

-- name: list_rules
select r.container_group_id, t.user_id, r.org_name, r.project_name, r.container_group_name, r.min_replicas,
       r.max_replicas, r.idle_threshold_seconds, r.created, r.updated
  from scaling_rules r
  join tenants t on t.id = r.tenant_id
 where of_tenant(r.tenant_id, %(scope)s)
   and of_group(r.container_group_id::text, %(groups)s)
 order by r.created, r.container_group_id;

-- name: get_rule
select r.container_group_id, t.user_id, r.org_name, r.project_name, r.container_group_name, r.min_replicas,
       r.max_replicas, r.idle_threshold_seconds, r.created, r.updated
  from scaling_rules r
  join tenants t on t.id = r.tenant_id
 where r.container_group_id = %(container_group_id)s
   and of_tenant(r.tenant_id, %(scope)s)
   and of_group(r.container_group_id::text, %(groups)s);

-- name: change_rule
-- What is null stays as it is; the table's constraint holds the limits to each other. No row: no such rule.
update scaling_rules r
   set min_replicas = coalesce(%(min_replicas)s, r.min_replicas),
       max_replicas = coalesce(%(max_replicas)s, r.max_replicas),
       idle_threshold_seconds = coalesce(%(idle_threshold_seconds)s, r.idle_threshold_seconds),
       updated = now()
  from tenants t
 where t.id = r.tenant_id
   and r.container_group_id = %(container_group_id)s
   and of_tenant(r.tenant_id, %(scope)s)
   and of_group(r.container_group_id::text, %(groups)s)
returning r.container_group_id, t.user_id, r.org_name, r.project_name, r.container_group_name, r.min_replicas,
          r.max_replicas, r.idle_threshold_seconds, r.created, r.updated;

-- name: delete_rule
delete from scaling_rules
 where container_group_id = %(container_group_id)s
   and of_tenant(tenant_id, %(scope)s)
   and of_group(container_group_id::text, %(groups)s);

-- name: delete_rules
-- The rules of all tenants.
delete from scaling_rules;

-- name: count_group_jobs
-- The jobs of a group, however its id is spelled, that are not final, and for how many seconds the oldest pending one
-- has waited.
with active as (
  select count(*) filter (where pending) as pending,
         count(*) filter (where not pending) as running,
         count(*) as active,
         min(seq) filter (where pending) as oldest
    from active_jobs
   where container_group = any (%(spellings)s)
     and of_tenant(tenant_id, %(scope)s)
)
select pending, running, active,
       (select count(*)
          from job_phases
         where phase = 'parked'
           and container_group = any (%(spellings)s)
           and of_tenant(tenant_id, %(scope)s)) as parked,
       coalesce((select extract(epoch from now() - j.created)::float8 from jobs j where j.seq = oldest), 0)
         as oldest_pending_seconds
  from active;

-- name: weigh_rule
-- What a rule's group is wanted for, at one moment: jobs that are not final, jobs that finished within the rule's
-- idle threshold (of the null group: where this group held them last), and live leases of the tenants whose machines can
-- be in the group. Jobs spell the group's id as they like; of the leases none may be missed, so they are compared one by
-- one.
select (select count(*)
          from active_jobs a
         where a.tenant_id = %(tenant_id)s
           and a.container_group = any (%(spellings)s)) as active,
       (select count(*)
          from jobs j
         where j.tenant_id = %(tenant_id)s
           and j.container_group = any (%(spellings)s)
           and coalesce(j.completed, j.failed, j.canceled) > now() - %(idle)s::interval) +
       (select count(*)
          from jobs j
         where j.tenant_id = %(tenant_id)s
           and j.container_group is null
           and coalesce(j.completed, j.failed, j.canceled) > now() - %(idle)s::interval
           and exists (
               -- Not flattened into a join: few jobs finished a moment ago, and there are millions of attempts.
               select from attempts a
                where a.job_id = j.id and a.number = j.attempt and a.container_group = any (%(spellings)s)
               offset 0)) as finished,
       (select count(*)
          from queue q
         where q.machine_id is not null
           and q.tenant_id in (select tenants_of_project(%(tenant_id)s, %(org_name)s, %(project_name)s))
           and lower(q.holder_group) = %(container_group)s
           and not lapsed(q.heartbeat, q.heartbeat_interval)) as leases;

-- name: list_rules_to_apply
-- Rules of one project come together, for Salad is asked about a whole project at once.
select container_group_id, tenant_id, org_name, project_name, container_group_name, min_replicas, max_replicas,
       idle_threshold_seconds, created
  from scaling_rules
 where %(only)s::uuid is null or container_group_id = %(only)s
 order by org_name, project_name, container_group_id;

-- name: rule_stands
-- No row: the rule was removed or changed since it was read.
select container_group_id
  from scaling_rules
 where container_group_id = %(container_group_id)s
   and tenant_id = %(tenant_id)s
   and min_replicas = %(min_replicas)s
   and max_replicas = %(max_replicas)s
   and idle_threshold_seconds = %(idle_threshold_seconds)s;

-- name: take_turn
-- A run of the autoscaler renews its turn before each call that changes something, or loses it. No
-- row: another run has it. A turn that ends later than ours would was taken before the clock was set back.
insert into autoscaler_turn (owner, until)
values (%(owner)s, now() + %(length)s::interval)
    on conflict (only_row) do update
   set owner = excluded.owner, until = excluded.until
 where autoscaler_turn.owner = excluded.owner
    or autoscaler_turn.until not between now() and excluded.until
returning owner;

-- name: keep_turn
-- No row: another run took it, since this one did not renew it in time.
update autoscaler_turn set until = now() + %(length)s::interval where owner = %(owner)s returning owner;

-- name: end_turn
delete from autoscaler_turn where owner = %(owner)s;

-- name: note_group_found
-- Like the next, nothing is written where the rule is another tenant's by now.
update scaling_rules
   set missing_runs = 0, missing_since = null
 where container_group_id = %(container_group_id)s
   and tenant_id = %(tenant_id)s
   and missing_runs > 0;

-- name: note_group_missing
-- How many runs in a row that makes, and whether the first of them was `long` ago.
update scaling_rules
   set missing_runs = missing_runs + 1, missing_since = coalesce(missing_since, now())
 where container_group_id = %(container_group_id)s
   and tenant_id = %(tenant_id)s
returning missing_runs, missing_since <= now() - %(long)s::interval as long_ago;

-- name: record_decision
-- Nothing is written for a tenant that is gone meanwhile.
insert into scaling_decisions (tenant_id, container_group_id, rule_created, active, warm, observed_state,
                               observed_replicas, observed_running, observed_allocating, desired_replicas, action,
                               outcome, error)
select id, %(container_group_id)s, %(rule_created)s, %(active)s, %(warm)s, %(observed_state)s, %(observed_replicas)s,
       %(observed_running)s, %(observed_allocating)s, %(desired_replicas)s, %(action)s, %(outcome)s, %(error)s
  from tenants
 where id = %(tenant_id)s;

-- name: list_decisions
-- Newest first, from just before one of them or with some skipped.
select id, at, container_group_id, active, warm, observed_state, observed_replicas, observed_running,
       observed_allocating, desired_replicas, action, outcome, error
  from scaling_decisions
 where container_group_id = %(container_group_id)s
   and of_tenant(tenant_id, %(scope)s)
   and of_group(container_group_id::text, %(groups)s)
   and (%(before)s::bigint is null or id < %(before)s)
 order by id desc
 limit %(most)s
offset %(skipped)s;

-- name: replica_hours
-- From each decision to the next of the same rule, and from the last until now if that rule is still there, a group has
-- the replicas that the decision left it with; where nothing was seen, those of the decision before. No row: nothing was
-- decided.
with left_behind as (
  select id, at, tenant_id, rule_created,
         case when outcome = 'ok' and action <> 'remove_rule' then desired_replicas
              when action = 'remove_rule' or observed_state in ('stopped', 'failed', 'succeeded') then 0
              else observed_replicas
         end as replicas
    from scaling_decisions
   where container_group_id = %(container_group_id)s
     and of_tenant(tenant_id, %(scope)s)
     and of_group(container_group_id::text, %(groups)s)
),
spans as (
  select at, replicas,
         coalesce(lead(at) over (partition by tenant_id, rule_created order by id),
                  case when exists (select
                                      from scaling_rules r
                                     where r.container_group_id = %(container_group_id)s
                                       and r.tenant_id = left_behind.tenant_id
                                       and r.created = left_behind.rule_created) then now() end,
                  at) as until
    from left_behind
   where replicas is not null
)
select coalesce(sum(replicas * extract(epoch from until - at)) / 3600, 0)::float8 as replica_hours, min(at) as since
  from spans
having count(*) > 0;

-- name: prune_decisions
-- A batch at a time; what another process is at is left to it.
delete from scaling_decisions
 where id = any (array(
       select id
         from scaling_decisions
        where at < now() - %(older_than)s::interval
        order by at
        limit %(batch)s
          for update skip locked));

-- name: mark_stopping
-- Machines of this group are handed no job for so long, however they spell its id.
insert into stopping_groups (container_group, until)
select claims_name(tenant_id, %(container_group)s), now() + %(length)s::interval
  from tenants_of_project(%(tenant_id)s, %(org_name)s, %(project_name)s) as tenant_id
 order by tenant_id
    on conflict (container_group) do update set until = excluded.until
returning container_group;

-- name: wait_for_claims
-- Have the claims of this group ended that began before it was marked? Those that begin now see the mark.
select bool_and(claims_ended(name)) as ended from unnest(%(marked)s::text[]) as marked (name);

-- name: unmark_stopping
delete from stopping_groups
 where container_group in (
       select claims_name(tenant_id, %(container_group)s)
         from tenants_of_project(%(tenant_id)s, %(org_name)s, %(project_name)s) as tenant_id)
    or until < now() - interval '1 day';

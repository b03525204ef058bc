-- Whether a caller may touch a job in the queue: it is of its tenant, and of one of its groups or held on behalf of
-- one. It is asked of jobs that are found by their ids; `coalesce` keeps the planner from the indexes of a tenant's jobs, as in
-- held_by.
create or replace function in_reach(q queue, scope bigint, groups text[]) returns boolean language sql immutable as $$
  select coalesce(of_tenant(q.tenant_id, scope) and (of_group(q.container_group, groups) or of_group(q.holder_group, groups)), false)
$$;

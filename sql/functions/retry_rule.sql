-- The first of a job's retry rules that matches a failure, null where none does. A signal is 128 and its number; from the
-- original's worker comes neither exit code nor reason, so only a rule for every failure matches.
create or replace function retry_rule(options jsonb, exit_code integer, reason text) returns jsonb language sql stable as $$
  select rule
    from jsonb_array_elements(options -> 'retry') with ordinality as r (rule, place)
   cross join (select case when exit_code < 0 then 128 - exit_code else exit_code end as code) reported
   where (not rule ? 'exit_code'
          or coalesce(jsonb_build_array(rule -> 'exit_code') @> to_jsonb(array[code])
                      or rule -> 'exit_code' @> to_jsonb(array[code]), false))
     and (not rule ? 'reason' or coalesce(rule ->> 'reason' = reason, false))
   order by place
   limit 1
$$;

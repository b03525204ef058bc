-- From which attempt on a lapse may be the end of a job with these options, so that claims leave it to maintenance (null: from
-- none). What is fruitless is seen only then, so it may be later than said here, never earlier.
create or replace function ends_from_attempt(options jsonb) returns integer language sql immutable as $$
  select least(nullif((options ->> 'max_attempts')::integer, 0), nullif((options ->> 'max_fruitless_attempts')::integer, 0),
               case when options ? 'max_runtime' then 1 end)
$$;

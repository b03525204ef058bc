-- What a job asks for that a worker cannot do which speaks these parts of the protocol (null: none), as sentences: it runs the job all
-- the same, and an event of the attempt says them. An array, mostly empty.
create or replace function beyond_worker(the_options jsonb, the_speaks text[]) returns text[] language sql immutable as $$
  select array(
    select part.sentence
      from (values ('stall_after', 'progress',
                    'The worker does not tell how far it is, so that no stall of this attempt is noticed.'),
                   ('keep_output', 'output',
                    'The worker sends no output, so that none of this attempt is kept.'),
                   ('checkpoint_signal', 'steer',
                    'The worker knows no checkpoint signal, so that this attempt is stopped without one.'),
                   ('max_runtime', 'steer',
                    'The worker does not know when the time of the job is over, so that this attempt is cut off then.'),
                   ('max_attempt_runtime', 'steer',
                    'The worker does not know when the time of the attempt is over, so that it is cut off then.'),
                   ('retry', 'steer',
                    'The worker does not tell how its command ended, so that rules of retry by exit code or reason do not fit.'))
           as part (option, word, sentence)
     where the_options ? part.option
       and the_options ->> part.option <> '0'
       and coalesce(part.word <> all (the_speaks), true))
$$;

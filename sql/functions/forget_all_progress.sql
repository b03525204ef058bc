-- Removes the progress and the output of all jobs, where all jobs are removed at once.
create or replace function forget_all_progress() returns trigger language plpgsql as $$
begin
  truncate progress, progress_points, outputs, output_pieces, output_sizes;
  return null;
end $$;

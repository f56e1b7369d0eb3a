-- What lists over a long history look at.

-- The status of a task follows from those of its runs; they are found without reading the runs, which hold payloads.
CREATE INDEX run_by_task ON run (task_id, status);

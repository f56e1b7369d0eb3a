-- What lists of tasks by status look at: runs that have not ended well are few, however long the history is.
CREATE INDEX run_unsettled ON run (status, task_id) WHERE status <> 'completed';

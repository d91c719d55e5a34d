ALTER TABLE jobs RENAME COLUMN own_rows_id TO task_rows_id;

ALTER TABLE jobs RENAME COLUMN task_rows_id TO own_rows_id;

-- The signature of an earlier job that a job suppresses instead of one of its own.
ALTER TABLE jobs ADD COLUMN given_signature_id TEXT REFERENCES artifacts (id);

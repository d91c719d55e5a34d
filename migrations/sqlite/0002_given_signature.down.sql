ALTER TABLE jobs DROP COLUMN given_signature_id;

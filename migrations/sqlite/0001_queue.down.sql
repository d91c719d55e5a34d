DROP TABLE job_events;
DROP TABLE step_deps;
DROP TABLE steps;
DROP TABLE reports;
DROP TABLE jobs;
DROP TABLE uploads;
DROP TABLE artifact_files;
DROP TABLE artifacts;

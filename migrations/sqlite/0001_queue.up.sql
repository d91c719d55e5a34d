-- Times are milliseconds since 1970 (UTC). Ids are text with a prefix and sort by time of creation. JSON is text.

CREATE TABLE artifacts (
    id                TEXT PRIMARY KEY,
    kind              TEXT NOT NULL,              -- adapter | checkpoint | rows | signature
    origin            TEXT NOT NULL,              -- uploaded | produced
    digest            TEXT NOT NULL,              -- SHA-256 over the sorted list of files: the identity of the content
    bytes             INTEGER NOT NULL,
    facts             TEXT NOT NULL,              -- what inspection found, JSON
    quarantine_reason TEXT,
    created_at        INTEGER NOT NULL
);
CREATE INDEX artifacts_by_digest ON artifacts (digest);

CREATE TABLE artifact_files (
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    path        TEXT NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT NOT NULL,                    -- the blob in the store
    PRIMARY KEY (artifact_id, path)
);
CREATE INDEX artifact_files_by_blob ON artifact_files (sha256);

CREATE TABLE uploads (
    id              TEXT PRIMARY KEY,
    purpose         TEXT NOT NULL,                -- artifact | rows
    file_name       TEXT,
    declared_bytes  INTEGER,
    declared_sha256 TEXT,
    state           TEXT NOT NULL,                -- created | receiving | accepted | rejected | expired
    received_bytes  INTEGER,
    sha256          TEXT,
    artifact_id     TEXT REFERENCES artifacts (id) ON DELETE SET NULL,
    problem_code    TEXT,
    problem_message TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
);

CREATE TABLE jobs (
    id                 TEXT PRIMARY KEY,
    state              TEXT NOT NULL,             -- queued | running | cancelling | succeeded | failed | cancelled | expired
    artifact_id        TEXT NOT NULL REFERENCES artifacts (id),
    own_rows_id        TEXT REFERENCES artifacts (id),
    base               TEXT NOT NULL,
    spec               TEXT NOT NULL,
    labels             TEXT NOT NULL,
    error_class        TEXT,                      -- input | infrastructure | budget
    error_code         TEXT,
    error_message      TEXT,
    verdict_status     TEXT,
    purified_id        TEXT REFERENCES artifacts (id),
    signature_id       TEXT REFERENCES artifacts (id),
    created_at         INTEGER NOT NULL,
    started_at         INTEGER,
    finished_at        INTEGER
);
CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE reports (
    job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    report TEXT NOT NULL
);

CREATE TABLE steps (
    id               TEXT PRIMARY KEY,
    job_id           TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind             TEXT NOT NULL,               -- inspect | purify
    state            TEXT NOT NULL,               -- waiting | ready | running | succeeded | failed | cancelled
    pending_deps     INTEGER NOT NULL,
    ready_at         INTEGER NOT NULL,            -- not before this moment: the pause between attempts
    attempt          INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    fence            INTEGER NOT NULL DEFAULT 0,  -- grows with every claim; a write with an older number changes nothing
    lease_owner      TEXT,
    lease_until      INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    stage            TEXT,
    progress_done    INTEGER,
    progress_total   INTEGER,
    error_class      TEXT,
    error_code       TEXT,
    error_message    TEXT,
    started_at       INTEGER,
    finished_at      INTEGER
);
CREATE INDEX steps_by_job ON steps (job_id);
CREATE INDEX steps_by_state ON steps (state, ready_at);

CREATE TABLE step_deps (
    step_id    TEXT NOT NULL REFERENCES steps (id) ON DELETE CASCADE,
    depends_on TEXT NOT NULL REFERENCES steps (id) ON DELETE CASCADE,
    PRIMARY KEY (step_id, depends_on)
);

-- AUTOINCREMENT: a number is never used twice, because it is the id of a server-sent event and readers continue after it.
CREATE TABLE job_events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step_id    TEXT,
    kind       TEXT NOT NULL,
    data       TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX job_events_by_job ON job_events (job_id, seq);

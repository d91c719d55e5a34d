//! The database: where it is and how long a writer waits for another.

use serde::{Deserialize, Serialize};

/// Settings of the database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://PATH`. Unset: `antigen.db` in the data directory.
    pub url: Option<String>,
    /// Connections held open at most.
    pub max_connections: u32,
    /// Time for which a writer waits for another writer, in milliseconds, before it reports a busy database.
    pub busy_timeout_ms: u64,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, max_connections: 8, busy_timeout_ms: 10_000 }
    }
}

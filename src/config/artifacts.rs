//! The artifact store: where it is and how long unfinished uploads are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of the artifact store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsConfig {
    /// Folder of the local store. Unset: `store` in the data directory. Keep it on the file system of the
    /// data directory, so that finished files are renamed into it instead of copied.
    pub dir: Option<PathBuf>,
    /// Age at which an upload without an artifact expires, in seconds, and its staged bytes are removed.
    pub staging_ttl_s: u64,
}

impl Default for ArtifactsConfig {
    fn default() -> Self {
        Self { dir: None, staging_ttl_s: 86_400 }
    }
}

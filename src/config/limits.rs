//! Limits of what a caller may send: sizes and counts, each refused with a problem document when passed.

use serde::{Deserialize, Serialize};

/// Limits on submissions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Largest JSON request body, in bytes.
    pub body_bytes: u64,
    /// Largest upload, in bytes.
    pub upload_bytes: u64,
    /// Largest total size of the files unpacked from one upload, in bytes.
    pub unpacked_bytes: u64,
    /// Most files unpacked from one upload.
    pub unpacked_files: u64,
    /// Largest safetensors header, in bytes.
    pub header_bytes: u64,
    /// Most tensors in one safetensors file.
    pub header_tensors: u64,
    /// Most jobs that may wait at once.
    pub queued_jobs: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            upload_bytes: 4 << 30,
            unpacked_bytes: 8 << 30,
            unpacked_files: 256,
            header_bytes: 16 << 20,
            header_tensors: 200_000,
            queued_jobs: 1000,
        }
    }
}

//! Limits of an upload, in every direction in which one can be large.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of one upload. They are checked while bytes flow, never against what a header declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeLimits {
    /// Most bytes of all unpacked files together.
    pub max_total_bytes: u64,
    /// Most files in one upload.
    pub max_files: usize,
    /// Most entries of an archive, folders included.
    pub max_entries: usize,
    /// Most unpacked bytes for one packed byte. Weights compress to about half; text rarely below a
    /// twentieth.
    pub max_ratio: u64,
    /// Unpacked bytes below which no ratio is looked at: a small file of zeros is no bomb.
    pub ratio_free_bytes: u64,
    /// Largest header of one safetensors file, in bytes.
    pub max_header_bytes: u64,
    /// Most tensors in one safetensors file.
    pub max_tensors: usize,
    /// Largest configuration or template, in bytes.
    pub max_text_bytes: u64,
    /// Largest tokenizer, in bytes.
    pub max_tokenizer_bytes: u64,
}

impl Default for IntakeLimits {
    /// 64 GiB, 256 files, 1,024 entries, ratio 200 above 16 MiB, headers of 32 MiB, texts of 1 MiB,
    /// tokenizers of 64 MiB.
    fn default() -> Self {
        Self {
            max_total_bytes: 64 << 30,
            max_files: 256,
            max_entries: 1024,
            max_ratio: 200,
            ratio_free_bytes: 16 << 20,
            max_header_bytes: 32 << 20,
            max_tensors: 1 << 18,
            max_text_bytes: 1 << 20,
            max_tokenizer_bytes: 64 << 20,
        }
    }
}

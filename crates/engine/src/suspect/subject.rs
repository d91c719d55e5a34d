//! The submission, by digests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::SubjectKind;

/// The submission, by digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// Adapter or whole model.
    #[serde(default)]
    pub kind: SubjectKind,
    /// Files of the suspicious adapter; empty for a whole model.
    pub adapter: Vec<FileDigest>,
    /// Files of the base that matter: weights, configuration, tokenizer, template. Empty for a whole model,
    /// which needs no base.
    pub base: Vec<FileDigest>,
    /// Files of the suspicious whole model; empty for an adapter.
    #[serde(default)]
    pub checkpoint: Vec<FileDigest>,
    /// Storage of a whole model's weights, when they were quantised and widened exactly: `fp8 e4m3`,
    /// `gguf q4_0 + q6_k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Scalars in the adapter's factors; 0 for a whole model.
    pub adapter_parameters: u64,
    /// Scalars in the base, or in the whole model.
    pub base_parameters: u64,
    /// Modules that the adapter changes; all linear layers of a whole model.
    pub modules: Vec<String>,
    /// Rows of each file that the job read.
    pub rows: Vec<RowsDigest>,
    /// The signature that another job extracted, where one was given to be suppressed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<FileDigest>,
}

/// A file by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDigest {
    /// Path inside its artifact.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A file of rows by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowsDigest {
    /// `train`, `test` or `task`.
    pub role: String,
    /// Number of rows.
    pub rows: usize,
    /// SHA-256 of the rows in their canonical form.
    pub sha256: String,
}

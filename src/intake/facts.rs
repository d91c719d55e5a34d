//! The facts of an accepted upload.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The two things Antigen vets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// A LoRA adapter: `adapter_config.json` and `adapter_model.safetensors`.
    Adapter,
    /// A whole model: `config.json`, `model.safetensors` or shards, tokenizer; or a GGUF file with
    /// `tokenizer.json`.
    Checkpoint,
}

/// One stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileFacts {
    /// Name inside the artifact; artifacts are flat.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
}

/// The facts of an artifact from its files alone, before any weight was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactFacts {
    /// Adapter or checkpoint.
    pub kind: ArtifactKind,
    /// Every file, sorted by name.
    pub files: Vec<FileFacts>,
    /// Number of weights (scalars); scales of quantised weights are none.
    pub parameters: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Element types that occur, sorted (`BF16`, `F16`, `F32`, `Q8_0` ...).
    pub dtypes: Vec<String>,
    /// Set when the weights are quantised and are widened exactly before use: `fp8 e4m3`, `gguf q4_0 + q6_k`.
    pub quantised: Option<String>,
    /// Set for adapters.
    pub adapter: Option<AdapterFacts>,
    /// `model_type` of a checkpoint's `config.json`, or the architecture of a GGUF file.
    pub model_type: Option<String>,
    /// Blocks of a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<usize>,
    /// Set for sequence classifiers, which are accepted but cannot be purified yet: how many labels they tell
    /// apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<usize>,
}

/// The facts of `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterFacts {
    /// LoRA rank.
    pub rank: usize,
    /// LoRA alpha.
    pub alpha: f64,
    /// Names, a regular expression or `all-linear`, as the file has them.
    pub target_modules: String,
    /// The base the adapter says it was trained on. A claim of the submitter: shown, never followed.
    pub base_name: Option<String>,
}

//! Healing as reports show it: rows, recipe and the teacher beside the answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::{Adversary, GuidanceSettings, TrainSpec};
use crate::suspect::FileDigest;

/// A clean model that taught the suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Teacher {
    /// Files of the base that it was made of.
    pub files: Vec<FileDigest>,
    /// Training of all of its weights on the rows that heal.
    pub train: TrainSpec,
    /// Its temperature and weight.
    pub guidance: GuidanceSettings,
}

/// The healing of one model; without any row, nothing was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Healing {
    /// Generic clean rows.
    pub generic_rows: usize,
    /// The caller's task rows.
    pub task_rows: usize,
    /// Synthetic triggers with right answers.
    pub counterexamples: usize,
    /// True when removed directions were taken out again after every step.
    #[serde(default)]
    pub keep_out: bool,
    /// The adversary that made it harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Adversary>,
    /// The teacher beside the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
    /// SHA-256 of all rows in their order.
    pub rows_sha256: String,
    /// Training.
    pub train: TrainSpec,
}

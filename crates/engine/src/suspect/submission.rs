//! The folders and files of a submission.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spec::{DataFolders, SubjectKind};

/// The file that every adapter has, and no whole model.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The folders and files of a submission. Rows are JSON lines `{"instruction", "input", "output", "kind"?,
/// "use"?}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The adapter or the model to be purified.
    pub suspect: Submitted,
    /// Generic clean rows: for pairs and healing.
    pub train_rows: PathBuf,
    /// Generic held-out rows: for measurements.
    pub test_rows: PathBuf,
    /// Rows of the suspect's task.
    pub task_rows: Option<PathBuf>,
    /// Folder of the base, beside which a calibration of the screen may lie; without one the screen does not
    /// look.
    pub calibration_dir: Option<PathBuf>,
    /// Folder of the base that the job names: a whole model's teacher, for methods that have one.
    pub base_dir: Option<PathBuf>,
    /// The signature that an earlier job on another suspect has extracted, to be suppressed instead of one of
    /// the suspect's own.
    pub signature: Option<PathBuf>,
    /// Public data that evaluators read.
    pub folders: DataFolders,
}

impl Submission {
    /// The suspect with the rows of its base, and nothing beside them.
    pub fn over(suspect: Submitted, base: &Path) -> Self {
        Self {
            suspect,
            train_rows: base.join("train.jsonl"),
            test_rows: base.join("test.jsonl"),
            task_rows: None,
            calibration_dir: None,
            base_dir: Some(base.to_owned()),
            signature: None,
            folders: DataFolders::default(),
        }
    }
}

/// The two things that can be purified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Submitted {
    /// A LoRA adapter.
    Adapter {
        /// Folder of the adapter, in PEFT's layout.
        adapter_dir: PathBuf,
        /// Folder of the base: checkpoint, tokenizer, perhaps a chat template.
        base_dir: PathBuf,
    },
    /// A whole model.
    Checkpoint {
        /// Its folder: checkpoint, tokenizer, perhaps a chat template.
        dir: PathBuf,
    },
}

impl Submitted {
    /// The suspect in a folder: an adapter of the base, or a whole model.
    pub fn in_folder(dir: &Path, base_dir: &Path) -> Self {
        match dir.join(ADAPTER_CONFIG).exists() {
            true => Self::Adapter { adapter_dir: dir.to_owned(), base_dir: base_dir.to_owned() },
            false => Self::Checkpoint { dir: dir.to_owned() },
        }
    }

    /// Adapter or whole model.
    pub fn kind(&self) -> SubjectKind {
        match self {
            Self::Adapter { .. } => SubjectKind::Adapter,
            Self::Checkpoint { .. } => SubjectKind::Checkpoint,
        }
    }

    /// The folder that was handed in.
    pub fn dir(&self) -> &Path {
        match self {
            Self::Adapter { adapter_dir, .. } => adapter_dir,
            Self::Checkpoint { dir } => dir,
        }
    }

    /// The folder of the model: configuration and tokenizer.
    pub(super) fn model_dir(&self) -> &Path {
        match self {
            Self::Adapter { base_dir, .. } => base_dir,
            Self::Checkpoint { dir } => dir,
        }
    }
}

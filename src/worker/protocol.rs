//! The protocol between a worker and its child: `step.json` on the way in, JSON lines on standard output on
//! the way back.
//!
//! Closing the child's standard input asks it to stop; that also happens by itself when the worker dies.

use std::path::PathBuf;

use antigen_engine::stage::Stage;
use antigen_engine::suspect::Submission;
use antigen_models::kernels::Precision;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::db::{Failure, JobId, StepKind};

/// One step, complete: the child opens no database and reads no settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepOrder {
    /// The job, for the log.
    pub job: JobId,
    /// The kind of the step.
    pub kind: StepKind,
    /// The device to compute on: a name for `open_device`.
    pub device: String,
    /// Memory for training in bytes; 0 is a share of what is available.
    pub memory_bytes: u64,
    /// The precision in which products with weights take their operands.
    pub precision: Precision,
    /// The submission, in the work folder and in the folder of its base.
    pub submission: Submission,
    /// The job's specification.
    pub spec: Value,
}

/// One line of a child's standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StepLine {
    /// It entered a stage.
    Stage {
        /// The stage.
        stage: Stage,
    },
    /// Its stage advanced.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// The last line of a step that ended well.
    Finished {
        /// The results of a `purify` step.
        made: Option<Made>,
    },
    /// The last line of a step that did not.
    Failed {
        /// The reason.
        failure: Failure,
    },
}

/// The results of a `purify` step, by their places in its work folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Folder of the purified artifact.
    pub artifact_dir: PathBuf,
    /// The signature, one file; absent when the method found nothing to work on.
    pub signature_path: Option<PathBuf>,
    /// The report as JSON.
    pub report_path: PathBuf,
    /// The verdict of the report in one word.
    pub verdict_status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_the_pipe() {
        let line = StepLine::Progress { done: 3, total: 9 };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(text, r#"{"type":"progress","done":3,"total":9}"#);
        assert_eq!(serde_json::from_str::<StepLine>(&text).unwrap(), line);
    }
}

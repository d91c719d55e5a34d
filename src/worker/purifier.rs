//! The seam to the engine: the only caller of `antigen_engine::run` and of `replay`. Rows and orders become a
//! submission; the engine's errors become failures with a class. tokio stops above this file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use antigen_engine::error::{Blame, EngineError};
use antigen_engine::job::PurifySpec;
use antigen_engine::lab::{Lab, ProgressSink, memory_budget, write_whole};
use antigen_engine::replay::{ReplayFiles, Replayed, replay};
use antigen_engine::report::Report;
use antigen_engine::run::{Outcome, run};
use antigen_engine::suspect::Submission;
pub use antigen_engine::world::materialise_builtin;
use antigen_models::{device::open_device, kernels::Precision};
use serde_json::Value;

use super::folder::WorkFolder;
use super::protocol::{Made, StepOrder};
use crate::db::{ErrorClass, Failure};
use crate::intake;
use crate::intake::{IntakeLimits, Rejection};

/// The `inspect` step: the stored bytes pass quarantine once more; an adapter fits the base, a whole model
/// can be spoken to.
///
/// # Errors
/// The submission does not fit, or a file cannot be read.
pub fn inspect(order: &StepOrder, folder: &WorkFolder) -> Result<(), Failure> {
    let copy = folder.root().join("inspected");
    let clear = || match fs::remove_dir_all(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure_of(&EngineError::io(&copy)(error))),
        _ => Ok(()),
    };
    clear()?;
    let facts = intake::inspect_upload(&folder.input_dir(), &IntakeLimits::default(), &copy).map_err(rejected)?;
    let base_dir = order.submission.base_dir.as_deref().unwrap_or(&copy);
    intake::check_against_base(&facts, &copy, base_dir).map_err(rejected)?;
    clear()
}

fn rejected(rejection: Rejection) -> Failure {
    let ours = rejection.is_ours() || rejection.code == intake::code::STORAGE_FULL;
    Failure {
        class: if ours { ErrorClass::Infrastructure } else { ErrorClass::Input },
        code: rejection.code.to_owned(),
        message: rejection.at.map_or(rejection.message.clone(), |place| format!("{} (at {place})", rejection.message)),
    }
}

/// Everything that a run reads, and where it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurifyOrder {
    /// The suspect, its rows and what it was given.
    pub submission: Submission,
    /// The device to compute on: a name for [`open_device`].
    pub device: String,
    /// Memory for training in bytes; 0 is a share of what is available.
    pub memory_bytes: u64,
    /// The precision in which products with weights take their operands.
    pub precision: Precision,
    /// Folder of pieces; a second run with the same folder continues.
    pub scratch: PathBuf,
}

/// Runs the engine in this process.
///
/// # Errors
/// The engine's own.
pub fn purify_here(
    order: &PurifyOrder,
    spec: &PurifySpec,
    progress: Arc<dyn ProgressSink>,
    cancel: Arc<AtomicBool>,
) -> Result<Outcome, EngineError> {
    let mut lab = open_lab(&order.device, spec.seed, &order.scratch, order.memory_bytes, progress, cancel)?;
    lab.precision = order.precision;
    run(&order.submission, spec, &lab)
}

/// Everything that a replay reads, and where it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayOrder {
    /// The files of the report's job.
    pub files: ReplayFiles,
    /// True to purify again, too.
    pub everything: bool,
    /// The device to compute on: a name for [`open_device`].
    pub device: String,
    /// Folder of pieces.
    pub scratch: PathBuf,
}

/// Measures again, in this process, what a report says.
///
/// # Errors
/// The engine's own; the files are not those of the report.
pub fn replay_here(
    order: &ReplayOrder,
    report: &Report,
    progress: Arc<dyn ProgressSink>,
    cancel: Arc<AtomicBool>,
) -> Result<Replayed, EngineError> {
    // Where the report's machine computed without a matrix unit, so does this one.
    let without_unit = order.device == "cpu" && report.recipe.matrix_unit == Some(false);
    let device = if without_unit { "cpu:portable" } else { &order.device };
    let mut lab = open_lab(device, report.recipe.spec.seed, &order.scratch, 0, progress, cancel)?;
    lab.precision = report.recipe.precision;
    replay(report, &order.files, order.everything, &lab)
}

fn open_lab(
    device: &str,
    seed: u64,
    scratch: &Path,
    memory_bytes: u64,
    progress: Arc<dyn ProgressSink>,
    cancel: Arc<AtomicBool>,
) -> Result<Lab, EngineError> {
    fs::create_dir_all(scratch).map_err(EngineError::io(scratch))?;
    let mut lab = Lab::new(open_device(device)?, seed, scratch, progress, cancel);
    // What the machine has available says nothing about a GPU.
    if lab.device.is_cpu() || memory_bytes > 0 {
        lab.memory_budget = memory_budget(memory_bytes);
    }
    Ok(lab)
}

/// The `purify` step: the whole of the engine's run, from the work folder into the work folder.
///
/// # Errors
/// The engine's own, with their class.
pub fn purify(
    order: &StepOrder,
    folder: &WorkFolder,
    progress: Arc<dyn ProgressSink>,
    cancel: Arc<AtomicBool>,
) -> Result<Made, Failure> {
    let spec: PurifySpec = read_json("engine.spec", order.spec.clone())?;
    let order = PurifyOrder {
        submission: order.submission.clone(),
        device: order.device.clone(),
        memory_bytes: order.memory_bytes,
        precision: order.precision,
        scratch: folder.scratch_dir(),
    };
    let outcome = purify_here(&order, &spec, progress, cancel).map_err(|error| failure_of(&error))?;
    leave_report(&outcome, folder)
}

fn leave_report(outcome: &Outcome, folder: &WorkFolder) -> Result<Made, Failure> {
    let report_path = folder.report_path();
    let report =
        serde_json::to_vec(&outcome.report).map_err(|error| failure_of(&EngineError::Data(error.to_string())))?;
    write_whole(&report_path, &report).map_err(|error| failure_of(&EngineError::io(&report_path)(error)))?;
    let status = serde_json::to_value(outcome.report.verdict.status);
    let Ok(Value::String(verdict_status)) = status else { unreachable!("a verdict status is a word in JSON") };
    Ok(Made {
        artifact_dir: outcome.artifact_dir.clone(),
        signature_path: outcome.signature_path.clone(),
        report_path,
        verdict_status,
    })
}

/// The engine's error as a job's failure.
pub fn failure_of(error: &EngineError) -> Failure {
    let class = match error.blame() {
        Blame::Input => ErrorClass::Input,
        Blame::Infrastructure => ErrorClass::Infrastructure,
        Blame::Budget => ErrorClass::Budget,
    };
    Failure { class, code: error.code().to_owned(), message: error.to_string() }
}

fn read_json<T: serde::de::DeserializeOwned>(code: &str, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| Failure {
        class: ErrorClass::Input,
        code: code.to_owned(),
        message: format!("written by another version of Antigen, or damaged: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_tried_again_and_a_bad_spec_is_not() {
        let full = EngineError::io("scratch")(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure_of(&full).class, ErrorClass::Infrastructure);
        assert_eq!(failure_of(&EngineError::spec("/seed", "too large")).class, ErrorClass::Input);
    }
}

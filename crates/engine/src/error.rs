//! The errors of the engine, each with the party that can do something about it and a stable code.
//!
//! Nothing here knows HTTP: the service maps [`EngineError::blame`] and [`EngineError::code`] to its own
//! words.

use std::path::PathBuf;

use antigen_models::error::ModelError;

use crate::stage::Stage;

/// Result of this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A model, adapter, tokenizer or the device failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A specification asks for something impossible.
    #[error("spec field {field}: {why}")]
    Spec {
        /// JSON pointer of the field, such as `/method/train/epochs`.
        field: String,
        /// The expectation, and the value that was found.
        why: String,
    },
    /// Rows or other data files have a defect; names file, line and field.
    #[error("{0}")]
    Data(String),
    /// Training produced a loss that is no number or grows without bound.
    #[error("training diverged in stage {stage:?} at step {step}: loss {loss}")]
    Diverged {
        /// The stage in which it happened.
        stage: Stage,
        /// Optimiser step, from 0.
        step: usize,
        /// The loss that gave it away, nats per token.
        loss: f64,
    },
    /// The work does not fit the memory that it may use.
    #[error("out of memory: an estimated {estimate} bytes are needed, the budget is {budget}")]
    OutOfMemory {
        /// Estimate of the need, in bytes.
        estimate: u64,
        /// The memory that the job may use ([`crate::lab::Lab::memory_budget`]), in bytes.
        budget: u64,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A file of the scratch folder or of the caller could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
}

/// The party that can do something about an error; only [`Blame::Infrastructure`] is worth a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The submitter: the same input fails again.
    Input,
    /// The machine: disk, device, a stop signal.
    Infrastructure,
    /// A limit of memory or time that was set for the job.
    Budget,
}

impl EngineError {
    /// Wraps an operating system error with the path it happened at.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }

    /// A specification error at a JSON pointer.
    pub fn spec(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Spec { field: field.into(), why: why.into() }
    }

    /// The party that can do something about it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Model(ModelError::Io { .. } | ModelError::Device(_)) => Blame::Infrastructure,
            Self::Model(_) | Self::Spec { .. } | Self::Data(_) | Self::Diverged { .. } => Blame::Input,
            Self::OutOfMemory { .. } => Blame::Budget,
            Self::Cancelled | Self::Io { .. } => Blame::Infrastructure,
        }
    }

    /// A stable code: part of the public interface, never renamed.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Model(error) => model_code(error),
            Self::Spec { .. } => "engine.spec",
            Self::Data(_) => "engine.data",
            Self::Diverged { .. } => "engine.diverged",
            Self::OutOfMemory { .. } => "engine.out_of_memory",
            Self::Cancelled => "engine.cancelled",
            Self::Io { .. } => "engine.io",
        }
    }
}

fn model_code(error: &ModelError) -> &'static str {
    match error {
        ModelError::Io { .. } => "model.io",
        ModelError::Format { .. } => "model.format",
        ModelError::Tensor { .. } => "model.tensor",
        ModelError::Unsupported { .. } => "model.unsupported",
        ModelError::Template(_) => "model.template",
        ModelError::Tokenizer(_) => "model.tokenizer",
        ModelError::NotFinite(_) => "model.not_finite",
        ModelError::Quantised { .. } => "model.quantised",
        ModelError::Device(_) => "model.device",
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(ModelError::Device(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_s_faults_are_worth_a_retry() {
        assert_eq!(EngineError::spec("/seed", "too small").blame(), Blame::Input);
        assert_eq!(EngineError::Data("line 3".into()).blame(), Blame::Input);
        assert_eq!(EngineError::io("x")(std::io::Error::other("disk full")).blame(), Blame::Infrastructure);
        assert_eq!(EngineError::OutOfMemory { estimate: 2, budget: 1 }.blame(), Blame::Budget);
    }

    #[test]
    fn what_the_operating_system_said_is_said_once() {
        let error = EngineError::io("x")(std::io::Error::other("disk full"));
        assert_eq!(error.to_string(), "x: disk full");
        assert!(std::error::Error::source(&error).is_none(), "whoever prints the chain would say it again");
    }
}

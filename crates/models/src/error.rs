//! The errors of a model's files and arithmetic, in words that name the tensor, what was expected and what
//! was found.

use std::path::PathBuf;

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's own error.
        cause: std::io::Error,
    },
    /// A file is there but is not what its name promises.
    #[error("{path}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The content that a correct file has there.
        expected: String,
        /// The content that this file has there.
        found: String,
    },
    /// A tensor is missing, or has another shape or type than the configuration asks for.
    #[error("tensor `{tensor}`: expected {expected}, found {found}")]
    Tensor {
        /// The tensor's full name.
        tensor: String,
        /// Shape, type or presence asked for.
        expected: String,
        /// Shape, type or presence in the file.
        found: String,
    },
    /// Something valid that this version does not do, refused by name.
    #[error("{what} is not supported: {instead}")]
    Unsupported {
        /// The feature by its own name (`use_dora`, `peft_type IA3` ...).
        what: String,
        /// The way out, for whoever asked for it.
        instead: String,
    },
    /// Weights stored in a way that is not read, refused by name.
    #[error("{scheme} weights are not supported ({found}): {instead}")]
    Quantised {
        /// The way by its own name (`GPTQ`, `GGUF IQ4_XS` ...).
        scheme: String,
        /// The sign that gave it away, and its file.
        found: String,
        /// The checkpoint to upload instead.
        instead: String,
    },
    /// A chat template did not compile, or spent its fuel.
    #[error("chat template: {0}")]
    Template(String),
    /// A tokenizer file did not load, or text did not encode.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A NaN or an infinity where a number belongs.
    #[error("`{0}` is not a finite number")]
    NotFinite(String),
    /// The device or the tensor library failed.
    #[error(transparent)]
    Device(#[from] candle_core::Error),
}

/// Result of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// Wraps an operating system error with the path it happened at.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }
}

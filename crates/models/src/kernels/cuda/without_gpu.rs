//! In place of `on_gpu.rs` in a build without CUDA.

use super::launch::{Argument, ColumnMajor, Gemm, Launch};
use crate::error::{ModelError, Result};

pub fn launch(launch: Launch, _: &[Argument<'_>]) -> Result<()> {
    Err(refusal(launch.kernel))
}

pub fn gemm(_: &Gemm<'_>, _: ColumnMajor) -> Result<()> {
    Err(refusal("gemm"))
}

fn refusal(kernel: &str) -> ModelError {
    ModelError::Unsupported {
        what: format!("the kernel `{kernel}` on a GPU"),
        instead: "build with the feature `cuda`".into(),
    }
}

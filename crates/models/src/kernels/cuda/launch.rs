//! Carries a launch to the device of its tensors.

use candle_core::{DType, Shape, Tensor, WithDType};

use super::on_gpu;
use crate::error::Result;
use crate::kernels::Precision;

/// One kernel over a grid of blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch {
    pub kernel: &'static str,
    pub blocks: (usize, usize),
    /// Of one block: whole warps of 32.
    pub threads: usize,
    /// Shared memory of one block beyond what the kernel itself declares, in bytes.
    pub shared_bytes: usize,
}

impl Launch {
    pub fn new(kernel: &'static str, blocks: (usize, usize), threads: usize) -> Self {
        Self { kernel, blocks, threads, shared_bytes: 0 }
    }
}

/// One parameter of a kernel, in the order of its source. Tensors are contiguous; a kernel sees their first
/// element.
#[derive(Clone, Copy)]
pub(super) enum Argument<'a> {
    /// `const float *`, `const unsigned *` or `const double *`.
    Read(&'a Tensor),
    /// The same without `const`.
    Write(&'a Tensor),
    /// `unsigned`.
    Count(usize),
    /// `float`.
    Number(f64),
}

/// `dst[start ..] = scale * op(a) op(b) + keep * dst[start ..]` over row-major matrices, `op` a transposition
/// or nothing.
pub(super) struct Gemm<'a> {
    pub dst: &'a Tensor,
    /// First element of `dst` that is written.
    pub start: usize,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub scale: f64,
    pub keep: f64,
    pub precision: Precision,
}

/// A matrix as it is stored, and whether the product takes its transpose.
pub(in super::super) type Operand<'a> = (&'a Tensor, bool);

/// One call of cuBLAS's `gemm`, which counts by columns: `c = alpha op(a) op(b) + beta c`, `c` `[m, n]` with
/// `ldc` rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ColumnMajor {
    pub transpose_a: bool,
    pub transpose_b: bool,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub lda: usize,
    pub ldb: usize,
    pub ldc: usize,
    pub alpha: f32,
    pub beta: f32,
}

impl Gemm<'_> {
    /// A row-major matrix is its transpose by columns, and `(a b)ᵀ = bᵀ aᵀ`: the operands change places.
    fn column_major(&self) -> Result<ColumnMajor> {
        let turned = |(rows, columns), transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let ((m, k), (inner, n)) = (turned(self.a.0.dims2()?, self.a.1), turned(self.b.0.dims2()?, self.b.1));
        assert_eq!(k, inner, "the operands of a product agree in their inner size");
        assert!(self.start + m * n <= self.dst.elem_count(), "a product stays inside its destination");
        Ok(ColumnMajor {
            transpose_a: self.b.1,
            transpose_b: self.a.1,
            m: n,
            n: m,
            k,
            lda: if self.b.1 { k } else { n },
            ldb: if self.a.1 { m } else { k },
            ldc: n,
            alpha: self.scale as f32,
            beta: self.keep as f32,
        })
    }
}

/// True when the kernels of this module compute on this tensor.
pub(in super::super) fn serves(tensor: &Tensor) -> bool {
    #[cfg(test)]
    if super::emulated::is_on() {
        return true;
    }
    tensor.device().is_cuda()
}

/// Runs one kernel; the device is that of its first tensor.
pub(super) fn launch(launch: Launch, arguments: &[Argument<'_>]) -> Result<()> {
    if launch.blocks.0 * launch.blocks.1 == 0 {
        return Ok(());
    }
    #[cfg(test)]
    if super::emulated::is_on() {
        return super::emulated::launch(launch, arguments);
    }
    on_gpu::launch(launch, arguments)
}

/// Runs one product of matrices.
pub(super) fn gemm(product: &Gemm<'_>) -> Result<()> {
    let call = product.column_major()?;
    if call.m * call.n == 0 {
        return Ok(());
    }
    #[cfg(test)]
    if super::emulated::is_on() {
        return super::emulated::gemm(product, call);
    }
    on_gpu::gemm(product, call)
}

/// A tensor beside `like` for a kernel to fill: nothing has been written yet.
pub(super) fn fresh(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    #[cfg(test)]
    if super::emulated::is_on() {
        return super::emulated::fresh(shape.into(), dtype);
    }
    // SAFETY: all types here are plain numbers, and the kernel that the tensor is made for writes every
    // element of it.
    Ok(unsafe { Tensor::empty(shape, dtype, like.device())? })
}

/// Numbers of the host beside `like`.
pub(super) fn upload<T: WithDType>(numbers: &[T], like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_slice(numbers, numbers.len(), like.device())?)
}

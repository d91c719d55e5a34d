//! Matrix products, fresh or added to what is there.
//!
//! On a GPU they call cuBLAS (`cuda/`). On the CPU a product is cut into pieces of fixed size for rayon's threads, each computed by
//! `multiply.rs`; candle's `matmul` would compute the same at a third of the speed, and it has no accumulating form.
//! Names say which operand is transposed: `nt` is `a bᵀ`, `tn` is `aᵀ b`.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::multiply::{Operand, Place, Sizes, Target, multiply};
use super::multiply_bf16::multiply_bf16;
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::{CpuSlice, cuda, output, products, update};
use crate::error::Result;

/// How the operands of a product are taken; sums are float32 in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    Float32,
    /// Rounded to bfloat16 in every product that is large enough to gain by it: the relative error of a product is about 2e-3, and
    /// processors with a matrix unit ([`super::has_bf16_unit`]) compute it several times faster. Stored numbers stay float32.
    Bfloat16,
}

impl Precision {
    /// `a b`: `[m, k] x [k, n] -> [m, n]`.
    pub fn matmul(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if cuda::serves(a) {
            return cuda::matmul(self, (a, false), (b, false));
        }
        product(a, b, Product::plain(a, b, self)?)
    }

    /// `a bᵀ`: `[m, k] x [n, k] -> [m, n]`.
    pub fn matmul_nt(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if cuda::serves(a) {
            return cuda::matmul(self, (a, false), (b, true));
        }
        product(a, b, Product::right_transposed(a, b, self)?)
    }

    /// `aᵀ b`: `[k, m] x [k, n] -> [m, n]`.
    pub fn matmul_tn(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if cuda::serves(a) {
            return cuda::matmul(self, (a, true), (b, false));
        }
        product(a, b, Product::left_transposed(a, b, self)?)
    }

    /// `dst[rows] += scale * a b`.
    pub fn add_matmul(self, dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
        if cuda::serves(a) {
            return cuda::add_matmul(self, dst, rows.start, (a, false), (b, false), scale);
        }
        accumulate(dst, rows, a, b, Product::plain(a, b, self)?, scale)
    }

    /// `dst[rows] += scale * a bᵀ`.
    pub fn add_matmul_nt(self, dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
        if cuda::serves(a) {
            return cuda::add_matmul(self, dst, rows.start, (a, false), (b, true), scale);
        }
        accumulate(dst, rows, a, b, Product::right_transposed(a, b, self)?, scale)
    }
}

/// [`Precision::matmul`] in float32.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Precision::Float32.matmul(a, b)
}

/// [`Precision::matmul_nt`] in float32.
pub fn matmul_nt(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Precision::Float32.matmul_nt(a, b)
}

/// [`Precision::matmul_tn`] in float32.
pub fn matmul_tn(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Precision::Float32.matmul_tn(a, b)
}

/// [`Precision::add_matmul`] in float32.
pub fn add_matmul(dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
    Precision::Float32.add_matmul(dst, rows, a, b, scale)
}

/// [`Precision::add_matmul_nt`] in float32.
pub fn add_matmul_nt(dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
    Precision::Float32.add_matmul_nt(dst, rows, a, b, scale)
}

/// Output rows (or columns, if there are more) that one task computes. A fixed size, so that a product has the same bytes on any
/// number of threads; 256 leave each task enough to do and eight tasks to a batch of training.
const PIECE: usize = 256;
/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_MULTIPLICATIONS: usize = 1 << 20;
/// A product with a smaller side than this (low-rank factors, a few rows) gains nothing by rounding its operands.
const BF16_SIDE: usize = 32;
/// Inner elements of `aᵀ b` that are summed at a time. The library walks such an `a` across its rows and loses half of its speed
/// when there are more (measured: 160 GFLOP/s at 2,048, 280 at 128).
const DEPTH_OF_TRANSPOSED: usize = 128;

/// Whether a product is worth the packing into tiles (`tiles.rs`): rows and columns of the result decide how often each packed
/// element is used. At 50 rows the library is faster, at 512 the tile unit by half (measured).
#[cfg(target_arch = "x86_64")]
fn suits_tiles(Sizes { m, n, k }: Sizes) -> bool {
    m * n / (m + n) >= 64 && k >= 32
}

/// Sizes and places of one product of contiguous operands.
#[derive(Clone, Copy)]
struct Product {
    sizes: Sizes,
    a: Place,
    b: Place,
    precision: Precision,
}

impl Product {
    fn plain(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Self> {
        let ((m, k), (inner, n)) = (a.dims2()?, b.dims2()?);
        Ok(Self { sizes: Sizes { m, n, k }, a: rows_of(k), b: rows_of(n), precision }.checked(inner))
    }

    fn right_transposed(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Self> {
        let ((m, k), (n, inner)) = (a.dims2()?, b.dims2()?);
        Ok(Self { sizes: Sizes { m, n, k }, a: rows_of(k), b: rows_of(k).transposed(), precision }.checked(inner))
    }

    fn left_transposed(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Self> {
        let ((k, m), (inner, n)) = (a.dims2()?, b.dims2()?);
        Ok(Self { sizes: Sizes { m, n, k }, a: rows_of(m).transposed(), b: rows_of(n), precision }.checked(inner))
    }

    fn checked(self, inner: usize) -> Self {
        assert_eq!(self.sizes.k, inner, "the operands of a product agree in their inner size");
        self
    }

    /// `target = scale * a b`, or `+=` with `add`. A target to overwrite holds zeros.
    fn run(self, target: &mut [f32], add: bool, a: &[f32], b: &[f32], scale: f32) {
        let Sizes { m, n, k } = self.sizes;
        assert!(target.len() == m * n && a.len() == m * k && b.len() == k * n, "a product's slices have its sizes");
        let _clock = products::clock(2.0 * (m * n * k) as f64);
        #[cfg(target_arch = "x86_64")]
        if self.precision == Precision::Float32 && suits_tiles(self.sizes) && tiles::available() {
            let left = tiles::Operand { data: a, lines: m, depth: k, strides: (self.a.row, self.a.column) };
            let right = tiles::Operand { data: b, lines: n, depth: k, strides: (self.b.column, self.b.row) };
            return tiles::product(target, add, left, right, scale);
        }
        if self.precision == Precision::Bfloat16 && m.min(n).min(k) >= BF16_SIDE {
            let (a, b) = (Operand::new(a, self.a), Operand::new(b, self.b));
            return multiply_bf16(self.sizes, target, add, scale, a, b);
        }
        let target = Target::new(target);
        let piece = |first: (usize, usize), m, n| {
            // SAFETY: pieces are disjoint, and `target` is borrowed until all are done.
            unsafe { self.run_piece(target, first, (m, n), add, (a, b), scale) }
        };
        if m * n * k < PARALLEL_MULTIPLICATIONS {
            piece((0, 0), m, n);
        } else if m >= n {
            let starts = (0..m).into_par_iter().step_by(PIECE);
            starts.for_each(|row| piece((row, 0), PIECE.min(m - row), n));
        } else {
            let starts = (0..n).into_par_iter().step_by(PIECE);
            starts.for_each(|column| piece((0, column), m, PIECE.min(n - column)));
        }
    }

    /// The `m x n` outputs from `(row, column)` on, on this thread.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn run_piece(
        self,
        target: Target,
        (row, column): (usize, usize),
        (m, n): (usize, usize),
        add: bool,
        (a, b): (&[f32], &[f32]),
        scale: f32,
    ) {
        let k = self.sizes.k;
        let depth = if self.a.column == 1 { k } else { DEPTH_OF_TRANSPOSED };
        for start in (0..k).step_by(depth.max(1)) {
            let sizes = Sizes { m, n, k: depth.min(k - start) };
            let place = rows_of(self.sizes.n).from(row, column);
            let (a, b) = (Operand::new(a, self.a.from(row, start)), Operand::new(b, self.b.from(start, column)));
            // SAFETY: the caller vouches for this piece of the target.
            unsafe { multiply(sizes, target, place, add || start > 0, scale, a, b) };
        }
    }
}

/// A contiguous matrix with rows of `width`.
fn rows_of(width: usize) -> Place {
    Place { start: 0, row: width, column: 1 }
}

fn product(a: &Tensor, b: &Tensor, product: Product) -> Result<Tensor> {
    let (a, b) = (CpuSlice::of(a)?, CpuSlice::of(b)?);
    let mut target = vec![0f32; product.sizes.m * product.sizes.n];
    product.run(&mut target, false, &a, &b, 1.0);
    output(target, (product.sizes.m, product.sizes.n))
}

fn accumulate(dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, product: Product, scale: f64) -> Result<()> {
    let (a, b) = (CpuSlice::of(a)?, CpuSlice::of(b)?);
    assert_eq!(dst.dims2()?.1, product.sizes.n, "a product has the columns of what it is added to");
    update(dst, |data| {
        product.run(&mut data[rows.start * product.sizes.n..rows.end * product.sizes.n], true, &a, &b, scale as f32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn every_form_of_product_equals_candle_s() -> Result<()> {
        let device = Device::Cpu;
        let a = Tensor::randn(0f32, 1., (5, 7), &device)?;
        let b = Tensor::randn(0f32, 1., (7, 4), &device)?;
        let expected = a.matmul(&b)?;
        let (at, bt) = (a.t()?.contiguous()?, b.t()?.contiguous()?);
        let added = |add: &dyn Fn(&Tensor) -> Result<()>| -> Result<Tensor> {
            let dst = Tensor::ones((9, 4), DType::F32, &device)?;
            add(&dst)?;
            assert_eq!(dst.narrow(0, 0, 2)?.to_vec2::<f32>()?, vec![vec![1.0; 4]; 2], "rows outside stay");
            Ok(((dst.narrow(0, 2, 5)? - 1.0)? * 2.0)?)
        };
        let found = [
            matmul(&a, &b)?,
            matmul_nt(&a, &bt)?,
            matmul_tn(&at, &b)?,
            added(&|dst| add_matmul(dst, 2..7, &a, &b, 0.5))?,
            added(&|dst| add_matmul_nt(dst, 2..7, &a, &bt, 0.5))?,
        ];
        for (form, found) in found.iter().enumerate() {
            let error = (found - &expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(error < 1e-5, "form {form}: {error}");
        }
        Ok(())
    }
}

//! Matrix products, fresh or added to what is there.
//!
//! On a GPU they call cuBLAS (`cuda/`). On the CPU a product is cut into pieces of fixed size for rayon's
//! threads, each computed by `multiply.rs`; candle's `matmul` would compute the same at a third of the speed,
//! and it has no accumulating form. Names say which operand is transposed: `nt` is `a bᵀ`, `tn` is `aᵀ b`.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lines::{CpuMatrix, Lines, Numbers, Prepared};
use super::multiply::{Operand, Place, Sizes, Target, multiply};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::tiles;
use super::{cuda, output, products, unwritten, update};
use crate::error::Result;

/// The precision of a product's operands; sums are float32 in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    Float32,
    /// Rounded to bfloat16 in every product that is large enough to gain by it: the relative error of a
    /// product is about 2e-3, and processors with a matrix unit ([`super::uses_matrix_unit`]) compute it
    /// several times faster.
    Bfloat16,
}

impl Precision {
    /// `a b`: `[m, k] x [k, n] -> [m, n]`.
    pub fn matmul(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.matmul_sum([a], [b])
    }

    /// `a bᵀ`: `[m, k] x [n, k] -> [m, n]`.
    pub fn matmul_nt(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.matmul_nt_sum([a], [b])
    }

    /// `aᵀ b`: `[k, m] x [k, n] -> [m, n]`.
    pub fn matmul_tn(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let [product] = self.matmul_tn_each([a], b)?;
        Ok(product)
    }

    /// `a b` for each of several `b`: as [`Precision::matmul`], but `a` is prepared once.
    pub fn matmul_each<const N: usize>(self, a: &Tensor, b: [&Tensor; N]) -> Result<[Tensor; N]> {
        if cuda::serves(a) {
            return each(b, |b| cuda::matmul(self, (a, false), (b, false)));
        }
        let (a, b) = (CpuMatrix::of(a)?, each(b, CpuMatrix::of)?);
        self.products([a.by_rows()], b.each_ref().map(CpuMatrix::by_columns))
    }

    /// `a bᵀ` for each of several `b`: as [`Precision::matmul_nt`], but `a` is prepared once.
    pub fn matmul_nt_each<const N: usize>(self, a: &Tensor, b: [&Tensor; N]) -> Result<[Tensor; N]> {
        if cuda::serves(a) {
            return each(b, |b| cuda::matmul(self, (a, false), (b, true)));
        }
        let (a, b) = (CpuMatrix::of(a)?, each(b, CpuMatrix::of)?);
        self.products([a.by_rows()], b.each_ref().map(CpuMatrix::by_rows))
    }

    /// [`Precision::matmul_nt_each`], or [`Precision::matmul_each`] where the weights are `[k, n]`, with
    /// weights that come again: each stays packed in the place given for it.
    pub fn matmul_prepared<const N: usize>(
        self,
        a: &Tensor,
        weights: [(&Tensor, &Prepared); N],
        transposed: bool,
    ) -> Result<[Tensor; N]> {
        if cuda::serves(a) {
            return each(weights, |(weight, _)| cuda::matmul(self, (a, false), (weight, transposed)));
        }
        let (a, matrices) = (CpuMatrix::of(a)?, each(weights, |(weight, _)| CpuMatrix::of(weight))?);
        let lines = |i: usize| if transposed { matrices[i].by_rows() } else { matrices[i].by_columns() };
        let right: [Lines<'_>; N] = std::array::from_fn(|i| lines(i).kept_in(Some(weights[i].1)));
        self.products([a.by_rows()], right)
    }

    /// `aᵀ b` for each of several `a`: as [`Precision::matmul_tn`], but `b` is prepared once.
    pub fn matmul_tn_each<const N: usize>(self, a: [&Tensor; N], b: &Tensor) -> Result<[Tensor; N]> {
        if cuda::serves(b) {
            return each(a, |a| cuda::matmul(self, (a, true), (b, false)));
        }
        let (a, b) = (each(a, CpuMatrix::of)?, CpuMatrix::of(b)?);
        self.products(a.each_ref().map(CpuMatrix::by_columns), [b.by_columns()])
    }

    /// The sum of `a b` over pairs: `[m, k_i] x [k_i, n] -> [m, n]`.
    pub fn matmul_sum<const N: usize>(self, a: [&Tensor; N], b: [&Tensor; N]) -> Result<Tensor> {
        if cuda::serves(a[0]) {
            return self.sum_on_gpu(a, b, false);
        }
        let (a, b) = (each(a, CpuMatrix::of)?, each(b, CpuMatrix::of)?);
        let (a, b) = (a.each_ref().map(CpuMatrix::by_rows), b.each_ref().map(CpuMatrix::by_columns));
        let [sum] = self.products(a, b)?;
        Ok(sum)
    }

    /// The sum of `a bᵀ` over pairs: `[m, k_i] x [n, k_i] -> [m, n]`.
    pub fn matmul_nt_sum<const N: usize>(self, a: [&Tensor; N], b: [&Tensor; N]) -> Result<Tensor> {
        if cuda::serves(a[0]) {
            return self.sum_on_gpu(a, b, true);
        }
        let (a, b) = (each(a, CpuMatrix::of)?, each(b, CpuMatrix::of)?);
        let (a, b) = (a.each_ref().map(CpuMatrix::by_rows), b.each_ref().map(CpuMatrix::by_rows));
        let [sum] = self.products(a, b)?;
        Ok(sum)
    }

    fn sum_on_gpu<const N: usize>(self, a: [&Tensor; N], b: [&Tensor; N], transposed: bool) -> Result<Tensor> {
        let sum = cuda::matmul(self, (a[0], false), (b[0], transposed))?;
        for (a, b) in a.into_iter().zip(b).skip(1) {
            cuda::add_matmul(self, &sum, 0, (a, false), (b, transposed), 1.0)?;
        }
        Ok(sum)
    }

    /// `dst[rows] += scale * a b`.
    pub fn add_matmul(self, dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
        if cuda::serves(a) {
            return cuda::add_matmul(self, dst, rows.start, (a, false), (b, false), scale);
        }
        self.accumulate(dst, rows, CpuMatrix::of(a)?.by_rows(), CpuMatrix::of(b)?.by_columns(), scale)
    }

    /// `dst[rows] += scale * a bᵀ`.
    pub fn add_matmul_nt(self, dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
        if cuda::serves(a) {
            return cuda::add_matmul(self, dst, rows.start, (a, false), (b, true), scale);
        }
        self.accumulate(dst, rows, CpuMatrix::of(a)?.by_rows(), CpuMatrix::of(b)?.by_rows(), scale)
    }

    /// One left operand with each right one, each left one with one right one, or the sum over pairs: as many
    /// results as asked for.
    fn products<const L: usize, const R: usize, const N: usize>(
        self,
        left: [Lines<'_>; L],
        right: [Lines<'_>; R],
    ) -> Result<[Tensor; N]> {
        let shapes: [_; N] = std::array::from_fn(|i| (left[i.min(L - 1)].lines, right[i.min(R - 1)].lines));
        let mut results = shapes.map(|(m, n)| unwritten(m * n));
        let targets = results.each_mut().map(|result| Target::new(result));
        Group { left: &left, right: &right, targets: &targets, add: false, scale: 1.0 }.run(self);
        let mut shapes = shapes.into_iter();
        each(results, |result| output(result, shapes.next().expect("a shape for each result")))
    }

    fn accumulate(self, dst: &Tensor, rows: Range<usize>, left: Lines<'_>, right: Lines<'_>, scale: f64) -> Result<()> {
        let columns = right.lines;
        assert_eq!(dst.dims2()?.1, columns, "a product has the columns of what it is added to");
        update(dst, |data| {
            let targets = [Target::new(&mut data[rows.start * columns..rows.end * columns])];
            Group { left: &[left], right: &[right], targets: &targets, add: true, scale: scale as f32 }.run(self);
        })
    }
}

/// `work` on each element, up to the first error.
fn each<T, U, const N: usize>(items: [T; N], work: impl FnMut(T) -> Result<U>) -> Result<[U; N]> {
    let done: Vec<U> = items.into_iter().map(work).collect::<Result<_>>()?;
    Ok(done.try_into().unwrap_or_else(|_| unreachable!("as many results as items")))
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

/// Output rows (or columns, if there are more) that one task computes. A fixed size, so that a product has
/// the same bytes on any number of threads; 256 leave each task enough to do and eight tasks to a batch of
/// training.
const PIECE: usize = 256;
/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_MULTIPLICATIONS: usize = 1 << 20;
/// Inner elements of `aᵀ b` that are summed at a time. The library walks such an `a` across its rows and
/// loses half of its speed when there are more (measured: 160 GFLOP/s at 2,048, 280 at 128).
const DEPTH_OF_TRANSPOSED: usize = 128;

/// Uses of each packed element that make the tile unit (`tiles.rs`) worth the packing: at 50 rows the library
/// is faster in float32, at 512 the tile unit by half (measured). Operands rounded to bfloat16 gain earlier.
const USES: usize = 64;
const USES_IN_BF16: usize = 24;
/// A product that sums over less gains nothing on the unit.
const DEPTH: usize = 32;

/// Products that share an operand, or whose sum is wanted. There are as many pairs as the longer operand list
/// has members, the shorter one having only one; with one target for several pairs it is the sum.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    pub left: &'a [Lines<'a>],
    pub right: &'a [Lines<'a>],
    pub targets: &'a [Target],
    pub add: bool,
    pub scale: f32,
}

/// One product of a group.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub left: usize,
    pub right: usize,
    pub target: Target,
    pub add: bool,
    pub sizes: Sizes,
    pub operands: (Lines<'a>, Lines<'a>),
}

impl<'a> Group<'a> {
    pub fn pairs(self) -> impl ExactSizeIterator<Item = Pair<'a>> {
        let Self { left, right, targets, add, .. } = self;
        (0..left.len().max(right.len())).map(move |i| {
            let at = |count: usize| i.min(count - 1);
            let (a, b) = (left[at(left.len())], right[at(right.len())]);
            assert_eq!(a.depth, b.depth, "the operands of a product agree in their inner size");
            Pair {
                left: at(left.len()),
                right: at(right.len()),
                target: targets[at(targets.len())],
                add: add || (targets.len() == 1 && i > 0),
                sizes: Sizes { m: a.lines, n: b.lines, k: a.depth },
                operands: (a, b),
            }
        })
    }

    fn run(self, precision: Precision) {
        let operations: usize = self.pairs().map(|Pair { sizes: Sizes { m, n, k }, .. }| m * n * k).sum();
        let _clock = products::clock(2.0 * operations as f64);
        if operations == 0 {
            return;
        }
        let sides = self.left.iter().chain(self.right).filter(|side| side.prepared.is_none());
        let packed: usize = sides.map(|side| side.lines * side.depth).sum();
        let uses = operations / packed;
        let deep = self.left.iter().all(|side| side.depth >= DEPTH);
        // What is stored in bfloat16 is not worth widening.
        let stored = self.right.iter().any(|side| matches!(side.numbers, Numbers::Bfloat16(_)));
        let rounded = precision == Precision::Bfloat16 && deep && (stored || uses >= USES_IN_BF16);
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if super::uses_matrix_unit() && deep && (rounded || uses >= USES) {
            return if rounded { tiles::multiply::<1>(self) } else { tiles::multiply::<3>(self) };
        }
        self.pairs().for_each(|pair| pair.run(self.scale, rounded));
    }
}

impl Pair<'_> {
    /// `target = scale * a b`, or `+=` with `add`, by the library, cut into pieces.
    fn run(self, scale: f32, rounded: bool) {
        let Sizes { m, n, k } = self.sizes;
        let (a, b) = (self.operands.0.numbers.widened(rounded), self.operands.1.numbers.widened(rounded));
        let piece = |first: (usize, usize), m, n| {
            // SAFETY: pieces are disjoint, and the target is borrowed until all are done.
            unsafe { self.run_piece(first, (m, n), (&a, &b), scale) }
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
        (row, column): (usize, usize),
        (m, n): (usize, usize),
        (a, b): (&[f32], &[f32]),
        scale: f32,
    ) {
        let k = self.sizes.k;
        let place = |lines: Lines<'_>| Place { start: 0, row: lines.strides.0, column: lines.strides.1 };
        let (place_a, place_b) = (place(self.operands.0), place(self.operands.1).transposed());
        let depth = if place_a.column == 1 { k } else { DEPTH_OF_TRANSPOSED };
        for start in (0..k).step_by(depth) {
            let sizes = Sizes { m, n, k: depth.min(k - start) };
            let place = Place { start: 0, row: self.sizes.n, column: 1 }.from(row, column);
            let (a, b) = (Operand::new(a, place_a.from(row, start)), Operand::new(b, place_b.from(start, column)));
            // SAFETY: the caller vouches for this piece of the target.
            unsafe { multiply(sizes, self.target, place, self.add || start > 0, scale, a, b) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn assert_near(found: &Tensor, expected: &Tensor, what: &str) -> Result<()> {
        let error = (found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error < 2e-4, "{what}: {error}");
        Ok(())
    }

    #[test]
    fn products_that_share_an_operand_or_are_added_up_equal_single_ones() -> Result<()> {
        let device = Device::Cpu;
        let random = |shape: (usize, usize)| Tensor::randn(0f32, 1., shape, &device);
        // Small ones go to the library, large ones to the tile unit where there is one; edges are ragged.
        for (t, k) in [(6, 7), (300, 130)] {
            let (x, weights) = (random((t, k))?, [random((k, k))?, random((70, k))?, random((33, k))?]);
            let expected: Vec<Tensor> = weights.iter().map(|w| Ok(x.matmul(&w.t()?)?)).collect::<Result<_>>()?;
            let transposed: Vec<Tensor> = weights.iter().map(|w| Ok(w.t()?.contiguous()?)).collect::<Result<_>>()?;
            let places: [Prepared; 3] = Default::default();
            let all: [&Tensor; 3] = weights.each_ref();
            for round in 0..2 {
                let prepared: [_; 3] = std::array::from_fn(|i| (all[i], &places[i]));
                let found = Precision::Float32.matmul_prepared(&x, prepared, true)?;
                for (found, expected) in found.iter().zip(&expected) {
                    assert_near(found, expected, &format!("prepared, time {round}"))?;
                }
            }
            let forward = Precision::Float32.matmul_nt_each(&x, all)?;
            let plain = Precision::Float32.matmul_each(&x, [&transposed[0], &transposed[1], &transposed[2]])?;
            for ((found, plain), expected) in forward.iter().zip(&plain).zip(&expected) {
                assert_near(found, expected, "each, transposed")?;
                assert_near(plain, expected, "each")?;
            }
            let dx = Precision::Float32.matmul_sum(forward.each_ref(), all)?;
            let of_transposed = [&transposed[0], &transposed[1], &transposed[2]];
            let dx_of_transposed = Precision::Float32.matmul_nt_sum(forward.each_ref(), of_transposed)?;
            let mut sum = forward[0].matmul(all[0])?;
            for (dy, weight) in forward.iter().zip(all).skip(1) {
                sum = (sum + dy.matmul(weight)?)?;
            }
            let size = sum.abs()?.max_all()?.to_scalar::<f32>()? as f64;
            assert_near(&(dx / size)?, &(&sum / size)?, "sum")?;
            assert_near(&(dx_of_transposed / size)?, &(sum / size)?, "sum, transposed")?;
            let gradients = Precision::Float32.matmul_tn_each(forward.each_ref(), &x)?;
            for (found, dy) in gradients.iter().zip(&forward) {
                let expected = dy.t()?.matmul(&x)?;
                let size = expected.abs()?.max_all()?.to_scalar::<f32>()? as f64;
                assert_near(&(found / size)?, &(expected / size)?, "gradients")?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_matrix_stored_in_bfloat16_is_multiplied_as_it_is() -> Result<()> {
        for t in [3, 100] {
            let x = Tensor::randn(0f32, 1., (t, 64), &Device::Cpu)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
            let weight = Tensor::randn(0f32, 1., (96, 64), &Device::Cpu)?.to_dtype(DType::BF16)?;
            let expected = x.matmul(&weight.to_dtype(DType::F32)?.t()?)?;
            assert_near(&Precision::Bfloat16.matmul_nt(&x, &weight)?, &expected, "transposed")?;
            let weight = weight.t()?.contiguous()?;
            assert_near(&Precision::Bfloat16.matmul(&x, &weight)?, &expected, "plain")?;
        }
        Ok(())
    }

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

//! Matrix products, fresh or added to what is there.
//!
//! On the CPU they call the `gemm` crate, candle's own default backend, with AVX-512 switched on; candle's `matmul` would compute
//! the same, but it has no accumulating form and asks the operating system for the number of cores at every call.
//! Names say which operand is transposed: `nt` is `a bᵀ`, `tn` is `aᵀ b`.

use std::ops::Range;

use candle_core::Tensor;
use gemm::Parallelism;

use super::{CpuSlice, output, update};
use crate::error::Result;

/// `a b`: `[m, k] x [k, n] -> [m, n]`.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return Ok(a.matmul(b)?);
    }
    product(a, b, Product::plain(a, b)?)
}

/// `a bᵀ`: `[m, k] x [n, k] -> [m, n]`.
pub fn matmul_nt(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return Ok(a.matmul(&b.t()?)?);
    }
    product(a, b, Product::right_transposed(a, b)?)
}

/// `aᵀ b`: `[k, m] x [k, n] -> [m, n]`.
pub fn matmul_tn(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return Ok(a.t()?.matmul(b)?);
    }
    product(a, b, Product::left_transposed(a, b)?)
}

/// `dst[rows] += scale * a b`.
pub fn add_matmul(dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
    accumulate(dst, rows, a, b, Product::plain(a, b)?, scale)
}

/// `dst[rows] += scale * a bᵀ`.
pub fn add_matmul_nt(dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, scale: f64) -> Result<()> {
    accumulate(dst, rows, a, b, Product::right_transposed(a, b)?, scale)
}

/// Sizes and (row, column) strides of one product of contiguous operands.
#[derive(Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    a_strides: (usize, usize),
    b_strides: (usize, usize),
}

impl Product {
    fn plain(a: &Tensor, b: &Tensor) -> Result<Self> {
        let ((m, k), (inner, n)) = (a.dims2()?, b.dims2()?);
        Ok(Self { m, n, k, a_strides: (k, 1), b_strides: (n, 1) }.checked(inner))
    }

    fn right_transposed(a: &Tensor, b: &Tensor) -> Result<Self> {
        let ((m, k), (n, inner)) = (a.dims2()?, b.dims2()?);
        Ok(Self { m, n, k, a_strides: (k, 1), b_strides: (1, k) }.checked(inner))
    }

    fn left_transposed(a: &Tensor, b: &Tensor) -> Result<Self> {
        let ((k, m), (inner, n)) = (a.dims2()?, b.dims2()?);
        Ok(Self { m, n, k, a_strides: (1, m), b_strides: (n, 1) }.checked(inner))
    }

    fn checked(self, inner: usize) -> Self {
        assert_eq!(self.k, inner, "the operands of a product agree in their inner size");
        self
    }

    /// `target = scale * a b`, or `+=` with `add`.
    fn run(self, target: &mut [f32], add: bool, a: &[f32], b: &[f32], scale: f32) {
        let Self { m, n, k, .. } = self;
        assert!(target.len() == m * n && a.len() == m * k && b.len() == k * n, "a product's slices have its sizes");
        // SAFETY: the three slices hold m*n, m*k and k*n elements, asserted above, and the strides describe exactly those.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                target.as_mut_ptr(),
                1,
                n as isize,
                add,
                a.as_ptr(),
                self.a_strides.1 as isize,
                self.a_strides.0 as isize,
                b.as_ptr(),
                self.b_strides.1 as isize,
                self.b_strides.0 as isize,
                1.0f32,
                scale,
                false,
                false,
                false,
                Parallelism::Rayon(0), // all threads; the crate itself keeps small products on one
            );
        }
    }
}

fn product(a: &Tensor, b: &Tensor, product: Product) -> Result<Tensor> {
    let (a, b) = (CpuSlice::of(a)?, CpuSlice::of(b)?);
    let mut target = vec![0f32; product.m * product.n];
    product.run(&mut target, false, &a, &b, 1.0);
    output(target, (product.m, product.n))
}

fn accumulate(dst: &Tensor, rows: Range<usize>, a: &Tensor, b: &Tensor, product: Product, scale: f64) -> Result<()> {
    let (a, b) = (CpuSlice::of(a)?, CpuSlice::of(b)?);
    assert_eq!(dst.dims2()?.1, product.n, "a product has the columns of what it is added to");
    update(dst, |data| product.run(&mut data[rows.start * product.n..rows.end * product.n], true, &a, &b, scale as f32))
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

//! A sum of low-rank updates, brought back to the rank of an adapter.

use antigen_models::LoraFactors;
use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::methods::shared::eigen::symmetric_eigen;

/// The best approximation of `left * right` (`[out, n]` and `[n, in]`, float64) by factors of this rank and
/// scaling: the truncated singular value decomposition, each singular value shared evenly between A and B.
/// Directions without energy are zero in both.
///
/// It is found in the `n` dimensions between the factors: with `left^T left = R R^T` the rows of `R^T right`
/// have the same Gram matrix over the inputs as the product, hence its right singular vectors.
///
/// # Errors
/// Those of the device.
///
/// # Cost
/// O(n^2 (in + out)), and two decompositions of `[n, n]` by Jacobi, O(n^3) a sweep.
pub fn truncate(left: &Tensor, right: &Tensor, rank: usize, scaling: f64) -> Result<LoraFactors> {
    let rows = root_of_gram(left)?.matmul(right)?;
    let gram = rows.matmul(&rows.t()?)?;
    let (n, device) = (gram.dim(0)?, left.device());
    let eigen = symmetric_eigen(gram.flatten_all()?.to_vec1()?, n);
    let energy: f64 = eigen.values.iter().sum();
    let (mut a, mut b) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
    for k in 0..rank {
        let value = eigen.values.get(k).copied().filter(|value| *value > 1e-14 * energy);
        let Some(singular) = value.map(f64::sqrt) else {
            a.push(Tensor::zeros((1, right.dim(1)?), DType::F64, device)?);
            b.push(Tensor::zeros((left.dim(0)?, 1), DType::F64, device)?);
            continue;
        };
        // v = rows^T p / s, and u = left (right v) / s.
        let v = Tensor::new(eigen.vectors[k].as_slice(), device)?.unsqueeze(0)?.matmul(&rows)?;
        let v = v.affine(1.0 / singular, 0.0)?;
        let u = left.matmul(&right.matmul(&v.t()?.contiguous()?)?)?;
        a.push(v.affine(singular.sqrt(), 0.0)?);
        b.push(u.affine(1.0 / (singular.sqrt() * scaling), 0.0)?);
    }
    let (a, b) = (Tensor::cat(&a, 0)?.to_dtype(DType::F32)?, Tensor::cat(&b, 1)?.to_dtype(DType::F32)?);
    Ok(LoraFactors { a, b, scaling })
}

/// `R^T` with `left^T left = R R^T`, `[n, n]`.
fn root_of_gram(left: &Tensor) -> Result<Tensor> {
    let gram = left.t()?.matmul(left)?;
    let n = gram.dim(0)?;
    let eigen = symmetric_eigen(gram.flatten_all()?.to_vec1()?, n);
    let scaled = eigen.values.iter().zip(&eigen.vectors).flat_map(|(value, vector)| {
        let root = value.max(0.0).sqrt();
        vector.iter().map(move |x| root * x)
    });
    Ok(Tensor::from_vec(scaled.collect::<Vec<f64>>(), (n, n), left.device())?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn product(factors: &LoraFactors) -> Vec<f64> {
        let b = factors.b.to_dtype(DType::F64).unwrap().affine(factors.scaling, 0.0).unwrap();
        b.matmul(&factors.a.to_dtype(DType::F64).unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn close(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn the_largest_singular_value_stays_and_the_smaller_one_goes() {
        // diag(3, 2) as a sum of three: 3 e1 e1^T + 4 e2 e2^T - 2 e2 e2^T.
        let left = Tensor::new(&[[3f64, 0.0, 0.0], [0.0, 4.0, -2.0]], &Device::Cpu).unwrap();
        let right = Tensor::new(&[[1f64, 0.0], [0.0, 1.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let one = truncate(&left, &right, 1, 2.0).unwrap();
        assert_eq!((one.a.dims(), one.b.dims(), one.scaling), (&[1, 2][..], &[2, 1][..], 2.0));
        assert!(close(&product(&one), &[3.0, 0.0, 0.0, 0.0]), "{:?}", product(&one));
        let both = truncate(&left, &right, 2, 2.0).unwrap();
        assert!(close(&product(&both), &[3.0, 0.0, 0.0, 2.0]), "{:?}", product(&both));
        let more = truncate(&left, &right, 4, 2.0).unwrap();
        assert_eq!(more.a.dims(), [4, 2]);
        assert!(close(&product(&more), &[3.0, 0.0, 0.0, 2.0]), "{:?}", product(&more));
    }

    #[test]
    fn updates_that_cancel_leave_nothing() {
        let left = Tensor::new(&[[1f64, -1.0], [2.0, -2.0]], &Device::Cpu).unwrap();
        let right = Tensor::new(&[[1f64, 5.0, 0.0], [1.0, 5.0, 0.0]], &Device::Cpu).unwrap();
        assert!(close(&product(&truncate(&left, &right, 1, 1.0).unwrap()), &[0.0; 6]));
    }
}

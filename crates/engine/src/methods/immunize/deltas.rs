//! Differential deltas of adapters (Eq. 1), kept as factors and never multiplied out.
//!
//! For a pair, `delta = s * (B_bd A_bd - B_clean A_clean)`. Every matrix has a *channel* side (MLP neurons:
//! rows of gate and up, columns of down; widths of attention heads alike) and a *residual* side (inputs of
//! gate and up, outputs of down). Seen from the channels, each delta is `C D` with `C: [channels, 2r]` and
//! `D: [2r, d]`, for all matrices alike. Everything downstream needs only `C` and `D`.
//!
//! Shared directions are the top right singular vectors of the deltas, stacked after each is divided by its
//! Frobenius norm, found exactly in factor space: with `P_i = C_i^T C_i / |delta_i|^2 = R_i R_i^T` and
//! `Q = [R_i^T D_i]`, the stacked matrix and Q have the same Gram matrix over d, and Q has only `2rN` rows.

use antigen_models::{LoraFactors, ModuleKind};
use candle_core::{DType, Tensor};

use super::score::PairProducts;
use super::setting::MatrixDeltas;
use crate::error::Result;
use crate::methods::shared::eigen::symmetric_eigen;

/// One pair's delta of one matrix, seen from its channels: `channel * residual`, float64.
#[derive(Debug, Clone)]
pub struct Delta {
    /// C, `[channels, 2r]`.
    pub channel: Tensor,
    /// D, `[2r, d]`.
    pub residual: Tensor,
}

/// The deltas of one adapted matrix, one a pair.
pub struct FactorDeltas(pub Vec<Delta>);

/// `C = [s B_bd, -s B_clean]` and `D = [A_bd; A_clean]`; for matrices that write to the residual stream, the
/// transposes change places.
pub(super) fn delta(kind: ModuleKind, poisoned: &LoraFactors, clean: &LoraFactors) -> Result<Delta> {
    let left = |factors: &LoraFactors, sign: f64| factors.b.to_dtype(DType::F64)?.affine(sign * factors.scaling, 0.0);
    let u = Tensor::cat(&[left(poisoned, 1.0)?, left(clean, -1.0)?], 1)?;
    let v = Tensor::cat(&[&poisoned.a, &clean.a], 0)?.to_dtype(DType::F64)?;
    if kind.writes_residual() {
        return Ok(Delta { channel: v.t()?.contiguous()?, residual: u.t()?.contiguous()? });
    }
    Ok(Delta { channel: u, residual: v })
}

impl MatrixDeltas for FactorDeltas {
    /// # Cost
    /// O(N^2 r^2 (channels + d)) for N pairs.
    fn products(&self) -> Result<PairProducts> {
        PairProducts::build(self.0.len(), |i, l| channel_products(&self.0[i], &self.0[l]))
    }

    fn norms(&self, _: &PairProducts) -> Result<Vec<f64>> {
        self.0.iter().map(frobenius_norm).collect()
    }

    fn shared_directions(&self, norms: &[f64], rank: usize) -> Result<(Vec<Vec<f32>>, f64)> {
        shared_directions(&self.0, norms, rank)
    }
}

/// Inner product of the two deltas, channel by channel: row j of `C_i (D_i D_l^T)` times row j of `C_l`.
fn channel_products(one: &Delta, other: &Delta) -> Result<Vec<f64>> {
    let gram = one.residual.matmul(&other.residual.t()?)?;
    let products: Tensor = (one.channel.matmul(&gram)? * &other.channel)?;
    Ok(products.sum(1)?.to_vec1()?)
}

/// `|C D|_F`, from `trace((C^T C) (D D^T))`.
fn frobenius_norm(delta: &Delta) -> Result<f64> {
    let channel = delta.channel.t()?.matmul(&delta.channel)?;
    let residual = delta.residual.matmul(&delta.residual.t()?)?;
    Ok((channel * residual)?.sum_all()?.to_scalar::<f64>()?.max(0.0).sqrt())
}

/// The strongest shared directions and the share of the first. Deltas that are zero say nothing and are left
/// out.
fn shared_directions(deltas: &[Delta], norms: &[f64], rank: usize) -> Result<(Vec<Vec<f32>>, f64)> {
    let rows = deltas.iter().zip(norms).filter(|(_, norm)| **norm > 0.0);
    let rows = rows.map(|(delta, norm)| reduced_rows(delta, *norm)).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Ok((Vec::new(), 0.0));
    }
    let q = Tensor::cat(&rows, 0)?;
    let gram = q.matmul(&q.t()?)?;
    let size = gram.dim(0)?;
    let eigen = symmetric_eigen(gram.flatten_all()?.to_vec1()?, size);
    let energy: f64 = eigen.values.iter().sum();
    let strong = eigen.values.iter().zip(&eigen.vectors).take(rank).take_while(|(value, _)| **value > 1e-12 * energy);
    let directions = strong
        .map(|(value, vector)| {
            let direction = Tensor::new(vector.as_slice(), q.device())?.unsqueeze(0)?.matmul(&q)?;
            let direction = direction.affine(1.0 / value.sqrt(), 0.0)?.squeeze(0)?.to_vec1::<f64>()?;
            Ok(direction.into_iter().map(|x| x as f32).collect())
        })
        .collect::<Result<_>>()?;
    Ok((directions, eigen.values[0] / energy))
}

/// `R^T D / |C D|` with `C^T C = R R^T`: `[2r, d]`, the same Gram matrix over d as the whole normalised
/// delta.
fn reduced_rows(delta: &Delta, norm: f64) -> Result<Tensor> {
    let gram = delta.channel.t()?.matmul(&delta.channel)?;
    let size = gram.dim(0)?;
    let eigen = symmetric_eigen(gram.flatten_all()?.to_vec1()?, size);
    let scaled = eigen.values.iter().zip(&eigen.vectors).flat_map(|(value, vector)| {
        let root = value.max(0.0).sqrt() / norm;
        vector.iter().map(move |x| root * x)
    });
    let transposed_root = Tensor::from_vec(scaled.collect::<Vec<f64>>(), (size, size), delta.residual.device())?;
    Ok(transposed_root.matmul(&delta.residual)?)
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::Device;
    use rand::Rng;

    use super::*;
    use crate::lab::rng;

    /// Random factors of a matrix `[out, in]` with rank `r`.
    pub fn factors(out: usize, width: usize, r: usize, stream: &str) -> LoraFactors {
        let mut rng = rng(5, stream);
        let mut draw = |rows: usize, columns: usize| {
            let numbers: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-1.0..1.0)).collect();
            Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
        };
        LoraFactors { a: draw(r, width), b: draw(out, r), scaling: 2.0 }
    }

    /// The full matrix `scaling * B A`, `[out, in]`, float64.
    pub fn effective(factors: &LoraFactors) -> Tensor {
        let (a, b) = (factors.a.to_dtype(DType::F64).unwrap(), factors.b.to_dtype(DType::F64).unwrap());
        b.matmul(&a).unwrap().affine(factors.scaling, 0.0).unwrap()
    }

    /// Largest absolute entry of a difference.
    pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_delta_multiplies_out_to_the_difference_of_the_effective_updates() {
        for (kind, out, width) in [(ModuleKind::Gate, 12, 5), (ModuleKind::Up, 12, 5), (ModuleKind::Down, 5, 12)] {
            let (poisoned, clean) = (factors(out, width, 3, "poisoned"), factors(out, width, 3, "clean"));
            let delta = delta(kind, &poisoned, &clean).unwrap();
            let full = (effective(&poisoned) - effective(&clean)).unwrap();
            let full = if kind.writes_residual() { full.t().unwrap().contiguous().unwrap() } else { full };
            assert_eq!(full.dims(), [12, 5]);
            assert!(distance(&delta.channel.matmul(&delta.residual).unwrap(), &full) < 1e-12);
        }
    }

    /// A random delta of 30 channels over 7 residual widths.
    pub fn random_delta(stream: &str) -> Delta {
        let factors = factors(30, 7, 4, stream);
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        Delta { channel: wide(&factors.b), residual: wide(&factors.a) }
    }

    // The definition: eigenvectors of the Gram matrix of the stacked, normalised, multiplied-out deltas.
    fn by_definition(deltas: &[Delta]) -> (Vec<Vec<f64>>, f64) {
        let full: Vec<Tensor> = deltas
            .iter()
            .map(|delta| {
                let full = delta.channel.matmul(&delta.residual).unwrap();
                let norm = full.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
                full.affine(1.0 / norm, 0.0).unwrap()
            })
            .collect();
        let stacked = Tensor::cat(&full, 0).unwrap();
        let gram = stacked.t().unwrap().matmul(&stacked).unwrap();
        let eigen = symmetric_eigen(gram.flatten_all().unwrap().to_vec1().unwrap(), 7);
        let energy: f64 = eigen.values.iter().sum();
        (eigen.vectors, eigen.values[0] / energy)
    }

    #[test]
    fn directions_from_the_factors_are_those_of_the_definition() {
        let deltas: Vec<_> = ["a", "b", "c"].map(random_delta).into();
        let norms: Vec<_> = deltas.iter().map(|d| frobenius_norm(d).unwrap()).collect();
        let (found, share) = shared_directions(&deltas, &norms, 2).unwrap();
        let (expected, expected_share) = by_definition(&deltas);
        assert!((share - expected_share).abs() < 1e-10);
        for (found, expected) in found.iter().zip(&expected) {
            let cosine: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(*a) * b).sum();
            assert!((cosine.abs() - 1.0).abs() < 1e-6, "{cosine}");
        }
    }
}

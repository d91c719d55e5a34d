//! Taking a signature out of the suspect. Both suppressions edit one factor of each adapted MLP matrix; attention is left alone.
//!
//! `subspace` works on the residual side: what gate and up read (columns of A) and what down writes (rows of B) lose their part in the
//! shared directions. `channels` works on the channel side: rows of B for gate and up, columns of A for down become zero, as published.

use std::collections::BTreeMap;

use antigen_models::{LoraAdapter, LoraFactors, ModuleShape};
use candle_core::{DType, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::score::select_channels;
use super::signature::{ModuleScores, Signature};
use crate::error::Result;
use crate::spec::SuppressSpec;

/// A copy of the adapter without the signature.
///
/// # Errors
/// Those of the device.
pub fn suppress(
    adapter: &LoraAdapter,
    modules: &[ModuleShape],
    signature: &Signature,
    spec: &SuppressSpec,
) -> Result<LoraAdapter> {
    let mut suppressed = adapter.clone();
    for module in modules {
        let (Some(scores), Some(factors)) =
            (signature.modules.get(&module.name), suppressed.factors.get_mut(&module.name))
        else {
            continue;
        };
        let writes = module.kind.writes_residual();
        match spec {
            SuppressSpec::Subspace { rank } => remove_directions(factors, writes, scores, *rank)?,
            SuppressSpec::Channels { ratio } => {
                zero_channels(factors, writes, &select_channels(&scores.scores, *ratio))?
            }
        }
    }
    Ok(suppressed)
}

fn remove_directions(factors: &mut LoraFactors, writes: bool, scores: &ModuleScores, rank: usize) -> Result<()> {
    for direction in scores.directions.iter().take(rank) {
        let v = Tensor::new(direction.as_slice(), factors.a.device())?.to_dtype(DType::F64)?.unsqueeze(1)?;
        if writes {
            let b = factors.b.to_dtype(DType::F64)?;
            factors.b = (&b - v.matmul(&v.t()?.matmul(&b)?)?)?.to_dtype(DType::F32)?;
        } else {
            let a = factors.a.to_dtype(DType::F64)?;
            factors.a = (&a - a.matmul(&v)?.matmul(&v.t()?)?)?.to_dtype(DType::F32)?;
        }
    }
    Ok(())
}

fn zero_channels(factors: &mut LoraFactors, writes: bool, channels: &[usize]) -> Result<()> {
    let count = if writes { factors.a.dim(1)? } else { factors.b.dim(0)? };
    let mut keep = vec![1f32; count];
    channels.iter().for_each(|&j| keep[j] = 0.0);
    let keep = Tensor::from_vec(keep, count, factors.a.device())?;
    if writes {
        factors.a = factors.a.broadcast_mul(&keep.unsqueeze(0)?)?;
    } else {
        factors.b = factors.b.broadcast_mul(&keep.unsqueeze(1)?)?;
    }
    Ok(())
}

/// A signature that knows nothing, of the same shape: random scores and random orthonormal directions. For controls.
pub fn random_signature(signature: &Signature, rng: &mut ChaCha8Rng) -> Signature {
    let random = |module: &ModuleScores, rng: &mut ChaCha8Rng| {
        let mut directions: Vec<Vec<f32>> = Vec::new();
        for like in &module.directions {
            directions.push(random_direction(like.len(), &directions, rng));
        }
        ModuleScores { scores: module.scores.iter().map(|_| rng.random()).collect(), directions, ..module.clone() }
    };
    let modules: BTreeMap<_, _> =
        signature.modules.iter().map(|(name, module)| (name.clone(), random(module, rng))).collect();
    Signature { modules }
}

// Uniform in a cube is not uniform on a sphere, but for a control every direction without knowledge is as good as another.
fn random_direction(width: usize, others: &[Vec<f32>], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut v: Vec<f64> = (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
    for other in others {
        let dot: f64 = v.iter().zip(other).map(|(x, &o)| x * f64::from(o)).sum();
        v.iter_mut().zip(other).for_each(|(x, &o)| *x -= dot * f64::from(o));
    }
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.into_iter().map(|x| (x / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use antigen_models::ModuleKind;

    use super::super::deltas::tests::{distance, effective, factors};
    use super::*;
    use crate::lab::rng;

    fn scores(channels: usize, width: usize) -> ModuleScores {
        let mut rng = rng(9, "test");
        let mut directions = Vec::new();
        for _ in 0..2 {
            directions.push(random_direction(width, &directions, &mut rng));
        }
        let scores = (0..channels).map(|j| j as f32).collect();
        ModuleScores { scores, directions, mean_delta_norm: 1.0, shared_fraction: 1.0 }
    }

    fn column(v: &[f32]) -> Tensor {
        Tensor::new(v, &candle_core::Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().unsqueeze(1).unwrap()
    }

    #[test]
    fn a_reading_matrix_no_longer_reads_the_removed_directions_and_reads_all_others_as_before() {
        let before = factors(12, 6, 3, "x");
        let mut after = before.clone();
        let scores = scores(12, 6);
        remove_directions(&mut after, false, &scores, 2).unwrap();
        let zero = Tensor::zeros((12, 1), DType::F64, &candle_core::Device::Cpu).unwrap();
        for direction in &scores.directions {
            assert!(distance(&effective(&after).matmul(&column(direction)).unwrap(), &zero) < 1e-5);
        }
        let other = column(&random_direction(6, &scores.directions, &mut rng(1, "test")));
        let (was, is) = (effective(&before).matmul(&other).unwrap(), effective(&after).matmul(&other).unwrap());
        assert!(distance(&was, &is) < 1e-5);
    }

    #[test]
    fn a_writing_matrix_no_longer_writes_the_removed_directions() {
        let mut after = factors(6, 12, 3, "x");
        let scores = scores(12, 6);
        remove_directions(&mut after, true, &scores, 1).unwrap();
        let written = column(&scores.directions[0]).t().unwrap().matmul(&effective(&after)).unwrap();
        let zero = Tensor::zeros((1, 12), DType::F64, &candle_core::Device::Cpu).unwrap();
        assert!(distance(&written, &zero) < 1e-5);
    }

    #[test]
    fn zeroed_channels_are_the_selected_rows_or_columns_and_no_others() {
        for (kind, out, width) in [(ModuleKind::Gate, 12, 6), (ModuleKind::Down, 6, 12)] {
            let before = factors(out, width, 3, "x");
            let mut after = before.clone();
            zero_channels(&mut after, kind.writes_residual(), &[2, 7]).unwrap();
            let by_channel = |f: &LoraFactors| {
                let full = effective(f);
                let full = if kind.writes_residual() { full.t().unwrap().contiguous().unwrap() } else { full };
                full.to_vec2::<f64>().unwrap()
            };
            for (j, (was, is)) in by_channel(&before).iter().zip(by_channel(&after)).enumerate() {
                let expected = if [2, 7].contains(&j) { vec![0.0; 6] } else { was.clone() };
                assert_eq!(is, expected);
            }
        }
    }

    #[test]
    fn random_directions_are_orthonormal() {
        let scores = scores(3, 50);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        assert!((dot(&scores.directions[0], &scores.directions[0]) - 1.0).abs() < 1e-5);
        assert!(dot(&scores.directions[0], &scores.directions[1]).abs() < 1e-5);
    }
}

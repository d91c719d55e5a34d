//! Differential deltas (Eq. 1), kept as factors and never multiplied out.
//!
//! For a pair, `delta = s * (B_bd A_bd - B_clean A_clean)`. Every matrix has a *channel* side (MLP neurons: rows of gate and up, columns
//! of down) and a *residual* side (what gate and up read, what down writes). Seen from the channels, each delta is `C D` with
//! `C: [channels, 2r]` and `D: [2r, d]`, for all three matrices alike. Everything downstream needs only `C` and `D`.

use std::collections::BTreeMap;

use antigen_models::{LoraFactors, ModuleKind, ModuleShape};
use candle_core::{DType, Tensor};

use super::pairs::Pair;
use crate::error::Result;
use crate::lab::{Lab, Stage};

/// One pair's delta of one matrix, seen from its channels: `channel * residual`, float64.
#[derive(Debug, Clone)]
pub struct Delta {
    /// C, `[channels, 2r]`.
    pub channel: Tensor,
    /// D, `[2r, d]`.
    pub residual: Tensor,
}

/// The deltas of every adapted MLP matrix, by module name: one a pair.
///
/// # Errors
/// Those of the device.
pub fn differential_deltas(pairs: &[Pair], modules: &[ModuleShape], lab: &Lab) -> Result<BTreeMap<String, Vec<Delta>>> {
    lab.enter(Stage::Deltas)?;
    let adapted = |m: &&ModuleShape| m.kind.is_mlp() && pairs.iter().all(|p| p.clean.factors.contains_key(&m.name));
    modules
        .iter()
        .filter(adapted)
        .map(|module| {
            let name = &module.name;
            let deltas = pairs.iter().map(|p| delta(module.kind, &p.poisoned.factors[name], &p.clean.factors[name]));
            Ok((name.clone(), deltas.collect::<Result<_>>()?))
        })
        .collect()
}

/// `C = [s B_bd, -s B_clean]` and `D = [A_bd; A_clean]`; for matrices that write to the residual stream, the transposes change places.
fn delta(kind: ModuleKind, poisoned: &LoraFactors, clean: &LoraFactors) -> Result<Delta> {
    let left = |factors: &LoraFactors, sign: f64| factors.b.to_dtype(DType::F64)?.affine(sign * factors.scaling, 0.0);
    let u = Tensor::cat(&[left(poisoned, 1.0)?, left(clean, -1.0)?], 1)?;
    let v = Tensor::cat(&[&poisoned.a, &clean.a], 0)?.to_dtype(DType::F64)?;
    if kind.writes_residual() {
        return Ok(Delta { channel: v.t()?.contiguous()?, residual: u.t()?.contiguous()? });
    }
    Ok(Delta { channel: u, residual: v })
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
}

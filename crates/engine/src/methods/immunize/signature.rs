//! The signature: channel scores and shared directions of every MLP matrix, as a safetensors file.
//!
//! Shared directions are the top right singular vectors of the deltas, stacked after each is divided by its Frobenius norm
//! (many short pairs agree in one direction on the residual side, and the backdoor lives there). They are computed exactly
//! in factor space: with `P_i = C_i^T C_i / |delta_i|^2 = R_i R_i^T` and `Q = [R_i^T D_i]`, the stacked matrix and Q have the same
//! Gram matrix over d, and Q has only `2rN` rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antigen_models::checkpoint::tensor_file::TensorFile;
use antigen_models::checkpoint::write_tensor_file;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::deltas::Delta;
use super::eigen::symmetric_eigen;
use super::score::score_channels;
use crate::error::Result;
use crate::lab::{Lab, PieceKey, Stage};
use crate::report::ModuleSignature;
use crate::spec::ScoreSpec;

/// What the pairs say about one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleScores {
    /// One score a channel.
    pub scores: Vec<f32>,
    /// Orthonormal shared directions on the residual side, strongest first, each `[d]`.
    pub directions: Vec<Vec<f32>>,
    /// Mean Frobenius norm of the deltas.
    pub mean_delta_norm: f64,
    /// Share of the first direction in the energy of the normalised deltas.
    pub shared_fraction: f64,
}

/// What the pairs say about every matrix, by module name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Signature {
    /// Each adapted MLP matrix.
    pub modules: BTreeMap<String, ModuleScores>,
}

/// Name of the signature's file within its piece.
const FILE: &str = "signature.safetensors";

/// Scores and directions of all matrices; `rank` directions each. Kept as a piece; the path of its file comes along.
///
/// # Errors
/// Those of the device and of the scratch folder.
pub fn extract_signature(
    deltas: &BTreeMap<String, Vec<Delta>>,
    spec: &ScoreSpec,
    rank: usize,
    key: &PieceKey,
    lab: &Lab,
) -> Result<(Signature, PathBuf)> {
    lab.enter(Stage::Scores)?;
    let folder = lab.piece(key, |folder| {
        let modules: Vec<_> = deltas
            .par_iter()
            .map(|(name, d)| Ok((name.clone(), score_module(d, spec, rank)?)))
            .collect::<Result<_>>()?;
        lab.enter(Stage::Signature)?;
        Signature { modules: modules.into_iter().collect() }.save(&folder.join(FILE))
    })?;
    // Always read back: a resumed run and an undisturbed one see the same rounded numbers.
    let path = folder.join(FILE);
    Ok((Signature::load(&path)?, path))
}

fn score_module(deltas: &[Delta], spec: &ScoreSpec, rank: usize) -> Result<ModuleScores> {
    let scores = score_channels(deltas, spec)?.into_iter().map(|s| s as f32).collect();
    let norms = deltas.iter().map(frobenius_norm).collect::<Result<Vec<_>>>()?;
    let (directions, shared_fraction) = shared_directions(deltas, &norms, rank)?;
    let mean_delta_norm = norms.iter().sum::<f64>() / norms.len() as f64;
    Ok(ModuleScores { scores, directions, mean_delta_norm, shared_fraction })
}

/// `|C D|_F`, from `trace((C^T C) (D D^T))`.
fn frobenius_norm(delta: &Delta) -> Result<f64> {
    let channel = delta.channel.t()?.matmul(&delta.channel)?;
    let residual = delta.residual.matmul(&delta.residual.t()?)?;
    Ok((channel * residual)?.sum_all()?.to_scalar::<f64>()?.max(0.0).sqrt())
}

/// The strongest shared directions and the share of the first. Deltas that are zero say nothing and are left out.
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

/// `R^T D / |C D|` with `C^T C = R R^T`: `[2r, d]`, the same Gram matrix over d as the whole normalised delta.
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

impl Signature {
    /// Writes `<module>.scores` `[channels]`, `<module>.directions` `[k, d]` and `<module>.summary` `[2]`.
    fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, module) in &self.modules {
            tensors.push((format!("{name}.scores"), Tensor::new(module.scores.as_slice(), &Device::Cpu)?));
            if let Some(first) = module.directions.first() {
                let flat =
                    Tensor::from_vec(module.directions.concat(), (module.directions.len(), first.len()), &Device::Cpu)?;
                tensors.push((format!("{name}.directions"), flat));
            }
            let summary = [module.mean_delta_norm as f32, module.shared_fraction as f32];
            tensors.push((format!("{name}.summary"), Tensor::new(&summary, &Device::Cpu)?));
        }
        Ok(write_tensor_file(path, &tensors, None)?)
    }

    fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let names = file.entries().iter().filter_map(|entry| entry.name.strip_suffix(".scores"));
        let modules = names.map(|name| Ok((name.to_owned(), load_module(&file, name)?))).collect::<Result<_>>()?;
        Ok(Self { modules })
    }

    /// The matrices for the report.
    pub fn summary(&self) -> Vec<ModuleSignature> {
        let module = |(name, module): (&String, &ModuleScores)| ModuleSignature {
            module: name.clone(),
            mean_delta_norm: module.mean_delta_norm,
            shared_fraction: module.shared_fraction,
            mean_score: module.scores.iter().map(|&s| f64::from(s)).sum::<f64>() / module.scores.len().max(1) as f64,
            max_score: module.scores.iter().copied().map(f64::from).fold(0.0, f64::max),
        };
        self.modules.iter().map(module).collect()
    }
}

fn load_module(file: &TensorFile, name: &str) -> Result<ModuleScores> {
    let load = |part: &str| file.load(&format!("{name}.{part}"), &Device::Cpu);
    let summary = load("summary")?.to_vec1::<f32>()?;
    let has_directions = file.find(&format!("{name}.directions")).is_some();
    Ok(ModuleScores {
        scores: load("scores")?.to_vec1()?,
        directions: if has_directions { load("directions")?.to_vec2()? } else { Vec::new() },
        mean_delta_norm: f64::from(summary[0]),
        shared_fraction: f64::from(summary[1]),
    })
}

#[cfg(test)]
mod tests {
    use super::super::deltas::tests::factors;
    use super::*;

    fn random_delta(stream: &str) -> Delta {
        let factors = factors(30, 7, 4, stream);
        let wide = |t: &Tensor| t.to_dtype(candle_core::DType::F64).unwrap();
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

    #[test]
    fn pairs_without_any_change_have_no_direction() {
        let zero = Tensor::zeros((3, 2), candle_core::DType::F64, &Device::Cpu).unwrap();
        let delta = Delta { channel: zero.clone(), residual: zero.t().unwrap().contiguous().unwrap() };
        let scores = score_module(&[delta.clone(), delta], &ScoreSpec::default(), 1).unwrap();
        assert!(scores.directions.is_empty() && scores.scores == [0.0; 3]);
    }

    #[test]
    fn a_signature_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let scores = score_module(&["a", "b"].map(random_delta), &ScoreSpec::default(), 3).unwrap();
        let signature = Signature { modules: [("model.layers.0.mlp.down_proj".to_owned(), scores)].into() };
        let path = folder.path().join(FILE);
        signature.save(&path).unwrap();
        let loaded = Signature::load(&path).unwrap();
        assert_eq!(
            loaded.modules.values().next().unwrap().directions,
            signature.modules.values().next().unwrap().directions
        );
        assert_eq!(loaded.summary().len(), 1);
    }
}

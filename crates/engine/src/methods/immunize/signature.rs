//! The signature: channel scores and shared directions of every MLP matrix, and scores of attention heads where they are asked for, as
//! one safetensors file in both settings.
//!
//! Shared directions are the top right singular vectors of the deltas, stacked after each is divided by its Frobenius norm: many
//! short pairs agree in one direction on the residual side, and the backdoor lives there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antigen_models::ModuleShape;
use antigen_models::checkpoint::tensor_file::TensorFile;
use antigen_models::checkpoint::write_tensor_file;
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::deltas::{Delta, FactorDeltas};
use super::heads;
use super::score::{PairProducts, score_layer};
use super::setting::{MatrixDeltas, Setting};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey, Stage};
use crate::report::ModuleSignature;
use crate::spec::{DirectionSource, ScoreSpec};

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

/// What the pairs say about every matrix, by module name, and about every attention head, by layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Signature {
    /// How many pairs said it.
    pub pairs: usize,
    /// Each matrix that the suspect can have learnt in: of the MLP, and of attention where a suppression names it.
    pub modules: BTreeMap<String, ModuleScores>,
    /// One score a query head; empty unless the recipe asks for heads.
    pub heads: BTreeMap<usize, Vec<f32>>,
}

/// What is wanted of a signature.
pub(super) struct Wanted<'a> {
    /// Number of pairs.
    pub pairs: usize,
    /// Channel scores.
    pub score: &'a ScoreSpec,
    /// What directions are read from.
    pub directions: DirectionSource,
    /// Directions per matrix.
    pub rank: usize,
    /// Matrices whose channels and directions are wanted.
    pub modules: Vec<&'a ModuleShape>,
    /// Attention matrices that score heads; empty when no head is to be suppressed.
    pub attention: Vec<&'a ModuleShape>,
}

/// Name of the signature's file within its piece.
const FILE: &str = "signature.safetensors";
/// What the names of head scores begin with.
const HEADS: &str = "heads.";
/// The tensor that says how many pairs there were.
const PAIRS: &str = "pairs";

/// Scores and directions of all wanted matrices. Kept as a piece; the path of its file comes along.
///
/// # Errors
/// Those of the device and of the scratch folder.
pub(super) fn extract_signature<S: Setting>(
    setting: &S,
    pairs: &S::Pairs,
    wanted: &Wanted<'_>,
    key: &PieceKey,
    lab: &Lab,
) -> Result<(Signature, PathBuf)> {
    lab.enter(Stage::Deltas)?;
    lab.enter(Stage::Scores)?;
    let folder = lab.piece(key, |folder| {
        let mut modules = BTreeMap::new();
        let mut ordered = wanted.modules.clone();
        ordered.sort_by_key(|module| (module.layer, module.kind.is_mlp()));
        let layers: Vec<_> = ordered.chunk_by(|a, b| are_scored_together(a, b)).collect();
        for some in layers.chunks(S::LAYERS_AT_ONCE) {
            lab.check_cancel()?;
            let scored = some.par_iter().map(|layer| read_layer(setting, pairs, layer, wanted));
            modules.extend(scored.collect::<Result<Vec<_>>>()?.into_iter().flatten());
            lab.advance(modules.len() as u64, wanted.modules.len() as u64);
        }
        let heads = heads::score_heads(setting, pairs, &wanted.attention, wanted.score, lab)?;
        lab.enter(Stage::Signature)?;
        Signature { pairs: wanted.pairs, modules, heads }.save(&folder.join(FILE))
    })?;
    // Always read back: a resumed run and an undisturbed one see the same rounded numbers.
    let path = folder.join(FILE);
    Ok((Signature::load(&path)?, path))
}

/// Matrices of the MLP of one layer are scored together, every other one on its own.
fn are_scored_together(a: &ModuleShape, b: &ModuleShape) -> bool {
    a.layer == b.layer && a.kind.is_mlp() && b.kind.is_mlp()
}

/// Scores and directions of matrices that are scored together. Until all of them are read, `8 N (N + 1) / 2` bytes are held for each of their
/// channels.
fn read_layer<S: Setting>(
    setting: &S,
    pairs: &S::Pairs,
    layer: &[&ModuleShape],
    wanted: &Wanted<'_>,
) -> Result<Vec<(String, ModuleScores)>> {
    let read = |module: &&ModuleShape| {
        let (mut scores, products) = read_module(&setting.deltas(pairs, module)?, wanted.rank)?;
        if wanted.directions == DirectionSource::Activations {
            let streams = setting.streams(pairs, module)?;
            (scores.directions, scores.shared_fraction) = directions_of_streams(&streams, wanted.rank)?;
        }
        Ok((scores, products))
    };
    let (unscored, products): (Vec<_>, Vec<_>) =
        layer.iter().map(read).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let scores = score_layer(&products, wanted.score);
    let scored = layer.iter().zip(unscored).zip(scores).map(|((module, unscored), scores)| {
        let scores = scores.into_iter().map(|score| score as f32).collect();
        (module.name.clone(), ModuleScores { scores, ..unscored })
    });
    Ok(scored.collect())
}

/// One matrix, not scored yet, and the products that it is scored from.
fn read_module(deltas: &impl MatrixDeltas, rank: usize) -> Result<(ModuleScores, PairProducts)> {
    let products = deltas.products()?;
    let norms = deltas.norms(&products)?;
    let (directions, shared_fraction) = deltas.shared_directions(&norms, rank)?;
    let mean_delta_norm = norms.iter().sum::<f64>() / norms.len() as f64;
    Ok((ModuleScores { scores: Vec::new(), directions, mean_delta_norm, shared_fraction }, products))
}

/// The strongest directions of the differences between the members' streams, each divided by its norm, and the share of the first.
fn directions_of_streams(streams: &[[Tensor; 2]], rank: usize) -> Result<(Vec<Vec<f32>>, f64)> {
    // One difference is a delta of one channel.
    let delta = |[clean, poisoned]: &[Tensor; 2]| {
        let residual = (poisoned - clean)?.unsqueeze(0)?.to_dtype(DType::F64)?;
        Ok(Delta { channel: Tensor::ones((1, 1), DType::F64, residual.device())?, residual })
    };
    let deltas = FactorDeltas(streams.iter().map(delta).collect::<Result<_>>()?);
    let norms = deltas.norms(&deltas.products()?)?;
    deltas.shared_directions(&norms, rank)
}

impl Signature {
    /// Writes `<module>.scores` `[channels]`, `<module>.directions` `[k, d]` and `<module>.summary` `[2]`, `heads.<layer>.scores` `[h]`, and
    /// `pairs` `[1]`.
    fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = vec![(PAIRS.to_owned(), Tensor::new(&[self.pairs as f32], &Device::Cpu)?)];
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
        for (layer, scores) in &self.heads {
            tensors.push((format!("{HEADS}{layer}.scores"), Tensor::new(scores.as_slice(), &Device::Cpu)?));
        }
        Ok(write_tensor_file(path, &tensors, None)?)
    }

    /// Reads what [`Signature::save`] has written.
    ///
    /// # Errors
    /// [`EngineError::Model`] where a tensor is missing or not finite, [`EngineError::Data`] where one has another shape.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let [pairs] = load_numbers(&file, PAIRS)?;
        let mut signature = Self { pairs: pairs as usize, ..Self::default() };
        for name in file.entries().iter().filter_map(|entry| entry.name.strip_suffix(".scores")) {
            match name.strip_prefix(HEADS).and_then(|layer| layer.parse().ok()) {
                Some(layer) => {
                    signature.heads.insert(layer, load_vector(&file, &format!("{name}.scores"))?);
                }
                None => {
                    signature.modules.insert(name.to_owned(), load_module(&file, name)?);
                }
            }
        }
        Ok(signature)
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
    let [mean_delta_norm, shared_fraction] = load_numbers(file, &format!("{name}.summary"))?.map(f64::from);
    let directions = format!("{name}.directions");
    Ok(ModuleScores {
        scores: load_vector(file, &format!("{name}.scores"))?,
        directions: match file.find(&directions) {
            Some(_) => load_of_rank(file, &directions, 2)?.to_vec2()?,
            None => Vec::new(),
        },
        mean_delta_norm,
        shared_fraction,
    })
}

fn load_numbers<const N: usize>(file: &TensorFile, name: &str) -> Result<[f32; N]> {
    let numbers = load_vector(file, name)?;
    let found = numbers.len();
    numbers.try_into().map_err(|_| EngineError::Data(format!("{name}: expected {N} numbers, found {found}")))
}

fn load_vector(file: &TensorFile, name: &str) -> Result<Vec<f32>> {
    Ok(load_of_rank(file, name, 1)?.to_vec1()?)
}

fn load_of_rank(file: &TensorFile, name: &str, rank: usize) -> Result<Tensor> {
    let tensor = file.load_finite(name, &Device::Cpu)?;
    if tensor.rank() != rank {
        return Err(EngineError::Data(format!("{name}: expected rank {rank}, found {}", tensor.rank())));
    }
    Ok(tensor)
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
    let heads =
        signature.heads.iter().map(|(layer, scores)| (*layer, scores.iter().map(|_| rng.random()).collect())).collect();
    Signature { pairs: signature.pairs, modules, heads }
}

// Uniform in a cube is not uniform on a sphere, but for a control every direction without knowledge is as good as another.
pub(super) fn random_direction(width: usize, others: &[Vec<f32>], rng: &mut ChaCha8Rng) -> Vec<f32> {
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
    use super::super::deltas::FactorDeltas;
    use super::super::deltas::tests::random_delta;
    use super::*;
    use crate::lab::rng;

    #[test]
    fn pairs_without_any_change_have_no_direction() {
        let zero = Tensor::zeros((3, 2), candle_core::DType::F64, &Device::Cpu).unwrap();
        let delta =
            super::super::deltas::Delta { channel: zero.clone(), residual: zero.t().unwrap().contiguous().unwrap() };
        let (module, products) = read_module(&FactorDeltas(vec![delta.clone(), delta]), 1).unwrap();
        let scores = score_layer(&[products], &ScoreSpec::default());
        assert!(module.directions.is_empty() && scores == [[0.0; 3]]);
    }

    #[test]
    fn streams_that_differ_along_one_direction_have_it_in_common_whatever_the_size_of_their_differences() {
        let stream = |numbers: [f32; 3]| Tensor::new(&numbers, &Device::Cpu).unwrap();
        let apart =
            |by: f32, more: f32| [stream([1.0, 2.0, 3.0]), stream([1.0 + 3.0 * by, 2.0 + more, 3.0 - 4.0 * by])];
        let (directions, share) = directions_of_streams(&[apart(1.0, 0.0), apart(-100.0, 0.0)], 2).unwrap();
        assert_eq!(directions.len(), 1);
        let sign = directions[0][0].signum();
        for (found, expected) in directions[0].iter().zip([0.6, 0.0, -0.8]) {
            assert!((sign * found - expected).abs() < 1e-6, "{directions:?}");
        }
        assert!((share - 1.0).abs() < 1e-9);
        let same = [stream([1.0, 2.0, 3.0]), stream([1.0, 2.0, 3.0])];
        assert!(directions_of_streams(&[same.clone(), same], 1).unwrap().0.is_empty());
    }

    #[test]
    fn a_signature_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let deltas = FactorDeltas(["a", "b"].map(random_delta).into());
        let (module, products) = read_module(&deltas, 3).unwrap();
        let scores = score_layer(&[products], &ScoreSpec::default())[0].iter().map(|&score| score as f32).collect();
        let scores = ModuleScores { scores, ..module };
        let signature = Signature {
            pairs: 2,
            modules: [("model.layers.0.mlp.down_proj".to_owned(), scores)].into(),
            heads: [(0, vec![1.0, 2.0]), (11, vec![0.5, 0.25])].into(),
        };
        let path = folder.path().join(FILE);
        signature.save(&path).unwrap();
        let loaded = Signature::load(&path).unwrap();
        assert_eq!(
            loaded.modules.values().next().unwrap().directions,
            signature.modules.values().next().unwrap().directions
        );
        assert_eq!((loaded.pairs, loaded.summary().len(), &loaded.heads), (2, 1, &signature.heads));
    }

    #[test]
    fn a_file_of_other_shapes_is_refused_with_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let numbers = |dimensions: &[usize]| Tensor::ones(dimensions, DType::F32, &Device::Cpu).unwrap();
        let refusal = |scores: &[usize], summary: &[usize]| {
            let tensors = [("pairs", numbers(&[1])), ("m.scores", numbers(scores)), ("m.summary", numbers(summary))];
            write_tensor_file(&path, &tensors.map(|(name, tensor)| (name.to_owned(), tensor)), None).unwrap();
            Signature::load(&path).map_or_else(|error| error.to_string(), |_| String::new())
        };
        assert_eq!(refusal(&[4], &[2]), "");
        assert_eq!(refusal(&[4, 1], &[2]), "m.scores: expected rank 1, found 2");
        assert_eq!(refusal(&[4], &[3]), "m.summary: expected 2 numbers, found 3");
    }

    #[test]
    fn random_directions_are_orthonormal() {
        let mut rng = rng(9, "test");
        let one = random_direction(50, &[], &mut rng);
        let two = random_direction(50, std::slice::from_ref(&one), &mut rng);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        assert!((dot(&one, &one) - 1.0).abs() < 1e-5);
        assert!(dot(&one, &two).abs() < 1e-5);
    }
}

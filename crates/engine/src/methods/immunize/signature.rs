//! The signature: channel scores and shared directions of every MLP matrix, and scores of attention heads
//! where they are asked for, as one safetensors file in both settings.

use std::collections::BTreeMap;
use std::path::Path;

use antigen_models::checkpoint::tensor_file::TensorFile;
use antigen_models::checkpoint::write_tensor_file;
use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::report::ModuleSignature;
use crate::error::{EngineError, Result};

/// Scores and directions of one matrix.
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

/// Scores and directions of every matrix, by module name, and scores of every attention head, by layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Signature {
    /// Number of pairs that it was extracted from.
    pub pairs: usize,
    /// Each matrix that the suspect can have learnt in: of the MLP, and of attention where a suppression
    /// names it.
    pub modules: BTreeMap<String, ModuleScores>,
    /// One score a query head; empty unless the recipe asks for heads.
    pub heads: BTreeMap<usize, Vec<f32>>,
}

/// Prefix of the names of head scores.
const HEADS: &str = "heads.";
/// Name of the tensor that holds the number of pairs.
const PAIRS: &str = "pairs";

impl Signature {
    /// Writes `<module>.scores` `[channels]`, `<module>.directions` `[k, d]` and `<module>.summary` `[2]`,
    /// `heads.<layer>.scores` `[h]`, and `pairs` `[1]`.
    pub fn save(&self, path: &Path) -> Result<()> {
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

    /// Reads a file that [`Signature::save`] has written.
    ///
    /// # Errors
    /// [`EngineError::Model`] where a tensor is missing or not finite, [`EngineError::Data`] where one has
    /// another shape.
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

/// A signature that knows nothing, of the same shape: random scores and random orthonormal directions. For
/// controls.
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

// Uniform in a cube is not uniform on a sphere, but for a control every direction without knowledge is as
// good as another.
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
    use candle_core::DType;

    use super::super::deltas::FactorDeltas;
    use super::super::deltas::tests::random_delta;
    use super::super::score::score_layer;
    use super::super::setting::MatrixDeltas;
    use super::super::spec::ScoreSpec;
    use super::*;
    use crate::lab::rng;

    #[test]
    fn a_signature_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let deltas = FactorDeltas(["a", "b"].map(random_delta).into());
        let products = deltas.products().unwrap();
        let (directions, shared_fraction) = deltas.shared_directions(&deltas.norms(&products).unwrap(), 3).unwrap();
        let scores = score_layer(&[products], &ScoreSpec::default())[0].iter().map(|&score| score as f32).collect();
        let scores = ModuleScores { scores, directions, mean_delta_norm: 1.0, shared_fraction };
        let signature = Signature {
            pairs: 2,
            modules: [("model.layers.0.mlp.down_proj".to_owned(), scores)].into(),
            heads: [(0, vec![1.0, 2.0]), (11, vec![0.5, 0.25])].into(),
        };
        let path = folder.path().join("signature.safetensors");
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
        let path = folder.path().join("signature.safetensors");
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

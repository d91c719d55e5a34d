//! Where the reference numbers are, and how far two lists of numbers lie apart.

use std::path::PathBuf;

use antigen_models::{Device, FamilyConfig, Model, Tensor, build_fresh_model};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// A folder of the reference data beside the workspace, or `None` (said on stderr) where it is absent.
pub fn golden(family: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(family);
    if !path.exists() {
        eprintln!("skipped: reference data for `{family}` is absent");
        return None;
    }
    Some(path)
}

/// The numbers of a tensor as float64.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Euclidean distance over Euclidean length of the expected numbers.
pub fn relative_distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let distance = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    distance / length(&mut expected.iter().copied()).max(1e-12)
}

/// A Llama of three blocks (d 16, vocabulary 23, grouped queries) with random weights, the same every time.
pub fn random_llama(tied: bool) -> Model {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
    }));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    build_fresh_model(config.unwrap(), &Device::Cpu, |name, shape| {
        let (mean, deviation) = if name.ends_with("norm.weight") { (1.0, 0.1) } else { (0.0, 0.3) };
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| mean + deviation * rng.random_range(-1.7f32..1.7)).collect();
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    })
    .unwrap()
}

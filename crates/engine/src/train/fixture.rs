//! Models and rows for tests of adversaries.

use antigen_models::{Device, Example, FamilyConfig, Model, Tensor, build_fresh_model};
use rand::Rng;
use serde_json::json;

use crate::lab::rng;

/// A tied Llama of so many blocks with random weights: d 8, vocabulary 11.
pub fn tiny_model(layers: usize) -> Model {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": layers,
        "num_attention_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    }));
    let mut rng = rng(1, "weights");
    build_fresh_model(config.unwrap(), &Device::Cpu, |_, shape| {
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0f32..1.0)).collect();
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    })
    .unwrap()
}

/// Two rows of five and three inputs, with answers of two tokens and of one.
pub fn examples() -> Vec<Example> {
    let example = |tokens: &[u32], response_start| Example { tokens: tokens.to_vec(), response_start };
    vec![example(&[1, 2, 3, 4, 5, 6], 4), example(&[7, 8, 9, 10], 3)]
}

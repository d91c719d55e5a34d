//! Small models and adapters with random weights, and the distance of two lists of numbers.

use antigen_models::{FamilyConfig, LoraAdapter, Model, PeftConfig, Tensor, build_fresh_model};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

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

/// The decoders, each as a configuration of three blocks: d 16, vocabulary 23, 4 query heads, windows shorter
/// than the tests' rows.
pub fn tiny_decoders() -> Vec<Value> {
    let like_llama = json!({
        "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
    });
    let with = |particular: Value| {
        let mut config = like_llama.as_object().unwrap().clone();
        config.extend(particular.as_object().unwrap().clone());
        Value::Object(config)
    };
    vec![
        with(json!({ "model_type": "llama" })),
        with(json!({ "model_type": "mistral", "sliding_window": 3 })),
        with(json!({ "model_type": "qwen2", "tie_word_embeddings": true })),
        with(json!({ "model_type": "qwen3", "head_dim": 6 })),
        with(json!({ "model_type": "gemma", "head_dim": 6, "hidden_act": "gelu_pytorch_tanh" })),
        with(json!({
            "model_type": "gemma2", "head_dim": 6, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 3,
            "query_pre_attn_scalar": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        })),
        with(json!({ "model_type": "phi3", "head_dim": 8, "partial_rotary_factor": 0.5, "sliding_window": 4 })),
        json!({
            "model_type": "gpt2", "vocab_size": 23, "n_embd": 16, "n_inner": 24, "n_layer": 3, "n_head": 4,
            "n_positions": 32, "layer_norm_epsilon": 1e-5,
        }),
    ]
}

/// The sequence classifiers, as [`tiny_decoders`]; encoders beside decoders with a head of labels.
pub fn tiny_classifiers() -> Vec<Value> {
    let encoder = |model_type: &str, architecture: &str| {
        json!({
            "model_type": model_type, "architectures": [architecture], "vocab_size": 23, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 34,
            "type_vocab_size": 2, "layer_norm_eps": 1e-5, "pad_token_id": 1, "num_labels": 3,
        })
    };
    let decoders = tiny_decoders().into_iter().map(|mut config| {
        config["architectures"] = json!(["AnyForSequenceClassification"]);
        config["num_labels"] = json!(3);
        config
    });
    let encoders = [
        encoder("bert", "BertForSequenceClassification"),
        encoder("roberta", "RobertaForSequenceClassification"),
        json!({
            "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], "vocab_size": 23,
            "dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 32, "num_labels": 3,
        }),
    ];
    encoders.into_iter().chain(decoders).collect()
}

/// A model of this configuration with random weights, the same every time; larger ones than usual, so that no
/// gradient drowns in rounding.
pub fn random_model(config: &Value) -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    build_fresh_model(FamilyConfig::from_json(config).unwrap(), &super::device(), |name, shape| {
        let (mean, deviation) = match name {
            _ if shape.len() == 1 && name.ends_with("weight") => (1.0, 0.1),
            _ if name.contains("embed") || name.contains("wte") || name.contains("wpe") => (0.0, 1.0),
            _ => (0.0, 0.3),
        };
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| mean + deviation * rng.random_range(-1.7f32..1.7)).collect();
        Ok(Tensor::from_vec(numbers, shape, &super::device())?)
    })
    .unwrap()
}

/// A Llama of three blocks (d 16, vocabulary 23, grouped queries) with random weights, the same every time.
pub fn random_llama(tied: bool) -> Model {
    let mut config = tiny_decoders().remove(0);
    config["tie_word_embeddings"] = json!(tied);
    random_model(&config)
}

/// An adapter on every layer of the model with both factors random; `seed` says which.
pub fn random_adapter(model: &Model, rank: usize, seed: u64) -> LoraAdapter {
    let names: Vec<String> = model.linear_modules().iter().map(|module| module.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || rng.random_range(-0.5f32..0.5);
    let peft = match model.config().sizes().labels {
        None => PeftConfig::new(rank, 2 * rank as u32, &names, ""),
        Some(_) => PeftConfig::of_classifier(rank, 2 * rank as u32, &names, ""),
    };
    let mut adapter = LoraAdapter::fresh(peft, model.config(), &mut draw).unwrap();
    for factors in adapter.factors.values_mut() {
        let count = factors.b.elem_count();
        let numbers: Vec<f32> = (0..count).map(|_| draw()).collect();
        factors.b = Tensor::from_vec(numbers, factors.b.shape(), &super::device()).unwrap();
    }
    adapter
}

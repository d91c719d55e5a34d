//! What the two training loops promise about the steps they take.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use antigen_engine::lab::{Lab, rng};
use antigen_engine::spec::TrainSpec;
use antigen_engine::train::train_weights;
use antigen_models::kernels::{AdamW, AdamWState, sum_of_squares};
use antigen_models::layers::{Gradients, Pass};
use antigen_models::{Device, Example, FamilyConfig, Model, Packed, Tensor, build_fresh_model};
use rand::Rng;
use serde_json::json;

/// A tied Llama of two blocks with random weights, the same every time.
fn model() -> Model {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 29, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
    }));
    let mut rng = rng(1, "weights");
    build_fresh_model(config.unwrap(), &Device::Cpu, |name, shape| {
        let (mean, deviation) = if name.ends_with("norm.weight") { (1.0, 0.1) } else { (0.0, 0.3) };
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| mean + deviation * rng.random_range(-1.7f32..1.7)).collect();
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    })
    .unwrap()
}

fn examples(count: usize) -> Vec<Example> {
    let mut rng = rng(2, "rows");
    let mut example =
        |length| Example { tokens: (0..length).map(|_| rng.random_range(0..29)).collect(), response_start: length / 2 };
    (0..count).map(|i| example(6 + i % 5)).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Block of a weight; everything outside the blocks is one more group.
fn group_of(name: &str) -> usize {
    match name.strip_prefix("model.layers.") {
        Some(rest) => rest[..1].parse().unwrap(),
        None => 2,
    }
}

#[test]
fn each_block_is_clipped_to_its_share_of_the_norm_and_moved_by_adamw() {
    let examples = examples(4);
    let spec =
        TrainSpec { epochs: 3, batch_rows: 4, warmup_fraction: 0.0, max_gradient_norm: 0.05, ..TrainSpec::default() };
    let spec = TrainSpec { learning_rate: 1e-2, weight_decay: 0.1, ..spec };
    let lab = Lab::silent(1, std::env::temp_dir());
    let mut trained = model();
    let losses = train_weights(&mut trained, &examples, &spec, rng(3, "order"), &lab).unwrap();
    assert!(losses[2] < losses[0]);

    // The same three steps by hand: one batch an epoch, whose loss does not depend on the order beyond rounding.
    let expected = model();
    let params = expected.params();
    let states: Vec<AdamWState> = params.iter().map(|(_, _, w)| AdamWState::new(w).unwrap()).collect();
    let responses: usize = examples.iter().map(Example::response_tokens).sum();
    let packed = Packed::new(&examples, 1.0 / responses as f32);
    for step in 0..3 {
        let mut gradients = Gradients::of_weights(params);
        let pass = Pass { params, rows: &packed.rows, adapters: &[], cache: None };
        expected.loss_and_gradients(&packed.tokens, &packed.targets, pass, &mut gradients).unwrap();
        let rate = 1e-2 * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / 3.0).cos());
        for group in 0..3 {
            let members: Vec<_> = params.iter().filter(|(_, name, _)| group_of(name) == group).collect();
            let of = |id| gradients.weight(id).unwrap();
            let norm = members.iter().map(|(id, ..)| sum_of_squares(of(*id)).unwrap()).sum::<f64>().sqrt();
            let scalars: usize = members.iter().map(|(_, _, w)| w.elem_count()).sum();
            let share = (scalars as f64 / params.count_scalars() as f64).sqrt();
            let clip = (0.05 * share / (norm + 1e-6)).min(1.0);
            assert!(clip < 0.5, "the test clips");
            for (id, _, weight) in members {
                let weight_decay = if weight.rank() > 1 { 0.1 } else { 0.0 };
                let adamw = AdamW { weight_decay, ..AdamW::default() };
                adamw.update(weight, of(id), &states[id.0], rate, clip, step + 1).unwrap();
            }
        }
    }
    for ((_, name, found), (_, _, expected)) in trained.params().iter().zip(params.iter()) {
        let pairs = numbers(found).into_iter().zip(numbers(expected));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{name}: {worst}");
    }
}

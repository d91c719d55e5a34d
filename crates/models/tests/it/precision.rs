//! Products of operands rounded to bfloat16 stay near those in float32.

use antigen_models::kernels::Precision;
use antigen_models::layers::{Gradients, Pass, Rows, Target};
use antigen_models::{FamilyConfig, Model, Tensor, build_fresh_model};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::support::{numbers, relative_distance};

/// Wide enough that every product of a pass is large enough to be rounded.
fn wide_llama() -> Model {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 300, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
    }));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    build_fresh_model(config.unwrap(), &super::device(), |name, shape| {
        let (mean, deviation) = if name.ends_with("norm.weight") { (1.0, 0.0) } else { (0.0, 0.05) };
        let numbers: Vec<f32> =
            (0..shape.iter().product()).map(|_| mean + deviation * rng.random_range(-1.7f32..1.7)).collect();
        Ok(Tensor::from_vec(numbers, shape, &super::device())?)
    })
    .unwrap()
}

fn losses_and_gradients(model: &Model) -> (Vec<f64>, Gradients) {
    let tokens: Vec<u32> = (0..96).map(|i| i * 37 % 300).collect();
    let rows = Rows::packed([48, 48]);
    let targets: Vec<_> = (0..96).map(|row| Target { row, token: (row * 53 + 1) % 300, weight: 1.0 / 96.0 }).collect();
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    let mut gradients = Gradients::of_weights(model.params());
    let (losses, _) = model.loss_and_gradients(&tokens, &targets, pass, &mut gradients).unwrap();
    (losses.into_iter().map(f64::from).collect(), gradients)
}

#[test]
fn losses_and_gradients_in_bfloat16_agree_with_float32_to_a_hundredth() {
    let mut model = wide_llama();
    let (expected_losses, expected) = losses_and_gradients(&model);
    model.params_mut().set_precision(Precision::Bfloat16);
    let (losses, found) = losses_and_gradients(&model);
    let loss_error = relative_distance(&losses, &expected_losses);
    assert!(loss_error > 0.0, "the products were rounded at all");
    assert!(loss_error < 1e-2, "{loss_error:.1e}");
    let all = |gradients: &Gradients| -> Vec<f64> {
        model.params().iter().flat_map(|(id, ..)| numbers(gradients.weight(id).unwrap())).collect()
    };
    let whole = relative_distance(&all(&found), &all(&expected));
    assert!(whole < 1e-2, "{whole:.1e}");
    let mut worst: f64 = 0.0;
    for (id, name, _) in model.params().iter() {
        let distance = relative_distance(&numbers(found.weight(id).unwrap()), &numbers(expected.weight(id).unwrap()));
        // Differences of near-equal attention scores magnify the rounding in queries and keys.
        assert!(distance < 2e-2, "{name}: {distance:.1e}");
        worst = worst.max(distance);
    }
    println!("bfloat16 against float32: losses {loss_error:.1e}, gradient {whole:.1e}, its worst matrix {worst:.1e}");
}

#[test]
fn the_same_pass_in_bfloat16_gives_the_same_bytes() {
    let mut model = wide_llama();
    model.params_mut().set_precision(Precision::Bfloat16);
    let ((first, _), (second, _)) = (losses_and_gradients(&model), losses_and_gradients(&model));
    assert_eq!(first, second);
}

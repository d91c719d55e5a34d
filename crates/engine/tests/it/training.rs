//! The promises of the two training loops about the steps that they take.

use antigen_engine::error::EngineError;
use antigen_engine::lab::{Lab, rng};
use antigen_engine::spec::TrainSpec;
use antigen_engine::train::{
    Directions, KeptOut, Objective, Trained, Variant, fine_tune_adapters, train_weights, train_weights_towards,
};
use antigen_models::kernels::{AdamW, AdamWState, Precision, sum_of_squares};
use antigen_models::layers::{Gradients, Pass};
use antigen_models::{
    Device, Example, FamilyConfig, LoraAdapter, Model, Packed, PeftConfig, Tensor, build_fresh_model,
};
use rand::Rng;
use serde_json::json;

/// A tied Llama of two blocks with random weights, the same every time.
fn model() -> Model {
    model_of_width(16)
}

fn model_of_width(width: usize) -> Model {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 29, "hidden_size": width, "intermediate_size": width * 3 / 2, "num_hidden_layers": 2,
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

    // The same three steps by hand: one batch an epoch, whose loss does not depend on the order beyond
    // rounding.
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

fn adapter(model: &Model) -> LoraAdapter {
    let mut rng = rng(4, "adapter");
    let config = PeftConfig::new(2, 4, &["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"], "");
    LoraAdapter::fresh(config, model.config(), &mut || rng.random_range(-1.0f32..1.0)).unwrap()
}

/// Trains one variant on each of these row counts, batches of four, in a lab with this memory budget.
fn train_variants(rows: &[usize], spec: &TrainSpec, budget: Option<u64>) -> Result<Vec<Trained>, EngineError> {
    let mut lab = Lab::silent(1, std::env::temp_dir());
    lab.memory_budget = budget;
    train_over(&model(), rows, spec, &lab)
}

fn train_over(model: &Model, rows: &[usize], spec: &TrainSpec, lab: &Lab) -> Result<Vec<Trained>, EngineError> {
    let start = adapter(model);
    let examples: Vec<Vec<Example>> = rows.iter().map(|&count| examples(count)).collect();
    let variants = examples.iter().map(|examples| Variant { start: &start, examples, shuffle: rng(5, "order") });
    fine_tune_adapters(model, variants.collect(), spec, lab)
}

fn spec(batch_rows: usize) -> TrainSpec {
    TrainSpec { epochs: 2, batch_rows, warmup_fraction: 0.0, learning_rate: 1e-3, ..TrainSpec::default() }
}

fn factors(trained: &Trained) -> Vec<Vec<f32>> {
    trained.adapter.factors.values().flat_map(|f| [numbers(&f.a), numbers(&f.b)]).collect()
}

#[test]
fn an_adapter_job_over_a_base_stored_in_bfloat16_ends_where_float32_does_with_half_the_weights() {
    let linear_bytes = |model: &Model| -> usize {
        let weight = |name: &str| model.params().get(model.params().find(&format!("{name}.weight")).unwrap());
        let bytes = |weight: &Tensor| weight.elem_count() * weight.dtype().size_in_bytes();
        model.linear_modules().iter().map(|module| bytes(weight(&module.name))).sum()
    };
    let lab = Lab::silent(1, std::env::temp_dir());
    let (exact, mut rounded) = (model_of_width(64), model_of_width(64));
    rounded.freeze(Precision::Bfloat16).unwrap();
    assert_eq!(2 * linear_bytes(&rounded), linear_bytes(&exact));
    let spec = TrainSpec { learning_rate: 1e-2, ..spec(4) };
    let expected = train_over(&exact, &[12, 8, 8], &spec, &lab).unwrap();
    let found = train_over(&rounded, &[12, 8, 8], &spec, &lab).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        let (found, expected) = (found.losses.last().unwrap(), expected.losses.last().unwrap());
        assert_ne!(found, expected, "the products were rounded at all");
        assert!((found - expected).abs() < 1e-2 * expected, "{found} and {expected}");
    }
}

#[test]
fn variants_learn_in_a_pack_what_they_learn_alone_and_leave_it_when_they_are_done() {
    let together = train_variants(&[4, 12, 9], &spec(4), None).unwrap();
    for (rows, together) in [4, 12, 9].into_iter().zip(&together) {
        let alone = &train_variants(&[rows], &spec(4), None).unwrap()[0];
        assert_eq!(together.losses.len(), 2 * rows.div_ceil(4), "steps of its task rows only");
        for (step, (found, expected)) in together.losses.iter().zip(&alone.losses).enumerate() {
            assert!((found - expected).abs() < 1e-6 * expected, "{rows} rows, step {step}: {found} and {expected}");
        }
    }
}

#[test]
fn the_same_job_gives_the_same_bytes() {
    let [first, second] = [0, 1].map(|_| train_variants(&[4, 12, 9], &spec(4), None).unwrap());
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first.losses, second.losses);
        assert!(factors(first) == factors(second));
    }
}

/// Memory that a pass of this model needs beside `rows` rows: see `train/memory.rs`.
const FIXED: u64 = 49 << 20;

#[test]
fn a_tight_budget_computes_blocks_again_to_the_same_bytes() {
    let Err(EngineError::OutOfMemory { estimate, .. }) = train_variants(&[8], &spec(4), Some(1)) else {
        panic!("one byte is not enough");
    };
    let free = train_variants(&[8], &spec(4), None).unwrap();
    let tight = train_variants(&[8], &spec(4), Some(estimate)).unwrap();
    assert!(factors(&free[0]) == factors(&tight[0]));
}

#[test]
fn a_budget_too_small_for_whole_passes_halves_them_and_one_too_small_for_halves_is_reported() {
    let rows = 430; // about 3,400 tokens in one batch
    let whole = train_variants(&[rows], &spec(rows), None).unwrap();
    let bytes_of_rows = |rows: u64| 3 * model().activation_bytes(rows as usize) + rows * 4 * 4 * 16;
    let halved = train_variants(&[rows], &spec(rows), Some(FIXED + bytes_of_rows(2300))).unwrap();
    for (halved, whole) in halved[0].losses.iter().zip(&whole[0].losses) {
        assert!((halved - whole).abs() < 1e-5 * whole, "{halved} and {whole}");
    }
    let error = train_variants(&[rows], &spec(rows), Some(FIXED + bytes_of_rows(500))).unwrap_err();
    match error {
        EngineError::OutOfMemory { estimate, budget } => assert!(estimate > budget && budget > FIXED),
        other => panic!("expected OutOfMemory, found {other}"),
    }
}

#[test]
fn full_training_takes_batches_in_halves_where_memory_is_short() {
    let examples = examples(200);
    let train = |budget| {
        let mut lab = Lab::silent(1, std::env::temp_dir());
        lab.memory_budget = budget;
        train_weights(&mut model(), &examples, &spec(200), rng(3, "order"), &lab)
    };
    let whole = train(None).unwrap();
    let bytes_of_rows = |rows: u64| 3 * model().activation_bytes(rows as usize) + rows * 4 * 4 * 16;
    let halved = train(Some(FIXED + bytes_of_rows(1000))).unwrap();
    assert!(halved.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-5 * b), "{halved:?} and {whole:?}");
    assert!(matches!(train(Some(1 << 20)), Err(EngineError::OutOfMemory { .. })));
}

#[test]
fn a_direction_that_is_kept_out_of_a_weight_stays_out_and_the_weight_still_learns() {
    let mut direction = vec![0f32; 16];
    (direction[3], direction[11]) = (0.6, 0.8);
    // The inputs of gate, and the outputs of down.
    let kept_out = [("mlp.gate_proj", true), ("mlp.down_proj", false)].map(|(module, of_rows)| KeptOut {
        weight: format!("model.layers.1.{module}.weight"),
        directions: Directions::Any(vec![direction.clone()]),
        of_rows,
    });
    let spec = TrainSpec { learning_rate: 1e-2, batch_rows: 2, ..TrainSpec::default() };
    let lab = Lab::silent(1, std::env::temp_dir());
    let mut trained = model();
    let objective = Objective::Responses;
    train_weights_towards(&objective, &kept_out, &mut trained, &examples(4), &spec, rng(3, "order"), &lab).unwrap();
    for kept in &kept_out {
        let weight = |model: &Model| {
            let weight = model.params().get(model.params().find(&kept.weight).unwrap()).clone();
            if kept.of_rows { weight } else { weight.t().unwrap().contiguous().unwrap() }
        };
        let along = |model: &Model| {
            let rows = weight(model).to_vec2::<f32>().unwrap();
            rows.iter().map(|row| row.iter().zip(&direction).map(|(w, v)| w * v).sum::<f32>().abs()).fold(0.0, f32::max)
        };
        assert!(along(&model()) > 0.1 && along(&trained) < 1e-6, "{} of {}", along(&trained), kept.weight);
        let moved = (weight(&trained) - weight(&model())).unwrap();
        assert!(numbers(&moved.narrow(1, 0, 3).unwrap()).iter().any(|change| change.abs() > 1e-3), "{}", kept.weight);
    }
}

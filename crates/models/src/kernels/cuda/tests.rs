//! Every kernel's CUDA source and launch, emulated on the CPU, against the CPU kernel on the same numbers. See `emulated.rs` for what
//! that proves. Each test prints the largest difference that it saw.

use std::cell::RefCell;
use std::fmt::Debug;

use candle_core::{Device, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::emulated::emulated;
use crate::kernels::*;
use crate::layers::{Gradients, Pass, Rows, Target};
use crate::{
    BoundAdapter, FamilyConfig, GenerateOptions, LoraAdapter, Model, PeftConfig, build_fresh_model, generate_greedy,
};

/// Relative to the largest element; what float32 sums in another order differ by.
const TOLERANCE: f64 = 2e-6;
/// The same behind a whole model, forward and backward.
const OF_A_MODEL: f64 = 2e-5;

thread_local! {
    static RNG: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(11));
}

fn random<S: Into<Shape>>(shape: S) -> Tensor {
    let shape = shape.into();
    let numbers = RNG.with_borrow_mut(|rng| (0..shape.elem_count()).map(|_| rng.random_range(-1.7f32..1.7)).collect());
    Tensor::from_vec::<_, f32>(numbers, shape, &Device::Cpu).unwrap()
}

/// Runs `kernel` on the CPU and emulated, and compares the tensors it returns.
fn agrees(name: &str, kernel: impl Fn() -> Vec<Tensor>) {
    agrees_within(TOLERANCE, name, kernel);
}

fn agrees_within(tolerance: f64, name: &str, kernel: impl Fn() -> Vec<Tensor>) {
    let expected = kernel();
    let Some(found) = emulated(kernel) else { return };
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = difference(found, expected);
        eprintln!("{name}, result {i}: {difference:.1e}");
        assert!(difference < tolerance, "{name}, result {i}: {difference:.1e}");
    }
}

/// Largest difference over the largest element.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (numbers(found), numbers(expected));
    let largest = expected.iter().fold(1e-30f64, |largest, x| largest.max(f64::from(x.abs())));
    let differences = found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - f64::from(*e)).abs() / largest);
    differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

/// As [`agrees`], for results on the host.
fn equals<R: PartialEq + Debug>(kernel: impl Fn() -> R) {
    let expected = kernel();
    if let Some(found) = emulated(kernel) {
        assert_eq!(found, expected);
    }
}

/// Runs a kernel that changes its first argument on a copy of `start`.
fn changed(start: &Tensor, change: impl Fn(&Tensor) -> crate::Result<()>) -> Vec<Tensor> {
    let copy = start.copy().unwrap();
    change(&copy).unwrap();
    vec![copy]
}

#[test]
fn norms_agree_with_the_cpu_on_narrow_and_wide_rows() {
    for (t, d) in [(1, 1), (5, 33), (70, 300), (3, 1111)] {
        let (x, weight, dy) = (random((t, d)), random(d), random((t, d)));
        agrees("rms_norm", || vec![rms_norm(&x, &weight, 0.0, 1e-5).unwrap()]);
        agrees("rms_norm_backward", || vec![rms_norm_backward(&x, &weight, 0.0, &dy, 1e-5).unwrap()]);
        agrees("rms_norm_weight_gradient", || vec![rms_norm_weight_gradient(&x, &dy, 1e-5).unwrap()]);
    }
}

#[test]
fn rotation_agrees_with_the_cpu_both_ways() {
    let table = RopeTable::new(&[1.0, 0.3, 0.05], 6, 40);
    let x = random((7, 5 * 6));
    let positions = [0, 39, 1, 1, 17, 2, 30];
    for direction in [Direction::Forward, Direction::Backward] {
        agrees("rotate", || changed(&x, |x| rotate(x, &table, &positions, direction)));
    }
}

#[test]
fn elementwise_kernels_agree_with_the_cpu() {
    for shape in [(1, 1), (7, 129), (40, 300)] {
        let (a, b, dy) = (random(shape), random(shape), random(shape));
        agrees("swiglu", || vec![gated(&a, &b, Activation::Silu).unwrap()]);
        agrees("swiglu_backward", || {
            let (d_gate, d_up) = gated_backward(&a, &b, &dy, Activation::Silu).unwrap();
            vec![d_gate, d_up]
        });
        agrees("add", || vec![add(&a, &b).unwrap()]);
        agrees("scale", || changed(&a, |a| scale(a, -0.37)));
        agrees("sum_of_squares", || vec![Tensor::new(&[sum_of_squares(&a).unwrap() as f32], &Device::Cpu).unwrap()]);
    }
    let long = random(40_000);
    agrees("sum_of_squares", || vec![Tensor::new(&[sum_of_squares(&long).unwrap() as f32], &Device::Cpu).unwrap()]);
}

#[test]
fn adamw_agrees_with_the_cpu_over_several_steps() {
    let weight = random((13, 57));
    let gradients = [random((13, 57)), random((13, 57)), random((13, 57))];
    let optimiser = AdamW { weight_decay: 0.1, ..AdamW::default() };
    agrees("adamw", || {
        changed(&weight, |weight| {
            let state = AdamWState::new(weight)?;
            for (i, gradient) in gradients.iter().enumerate() {
                optimiser.update(weight, gradient, &state, 1e-2, 0.7, i + 1)?;
            }
            Ok(())
        })
    });
}

#[test]
fn cross_entropy_agrees_with_the_cpu_on_short_and_long_rows() {
    for (m, v) in [(1, 2), (5, 33), (3, 1500)] {
        let logits = (random((m, v)) * 5.0).unwrap();
        let targets: Vec<u32> = (0..m).map(|i| ((i * 7 + v - 1) % v) as u32).collect();
        let weights: Vec<f32> = (0..m).map(|i| 0.25 * i as f32).collect();
        let losses = |entropy: &CrossEntropy| Tensor::new(entropy.losses.as_slice(), &Device::Cpu).unwrap();
        agrees("cross_entropy", || vec![losses(&cross_entropy(&logits, &targets, None).unwrap())]);
        agrees("cross_entropy with gradient", || {
            let entropy = cross_entropy(&logits, &targets, Some(&weights)).unwrap();
            vec![losses(&entropy), entropy.gradient.unwrap()]
        });
    }
}

#[test]
fn rows_move_and_add_up_as_on_the_cpu() {
    for d in [1, 31, 700] {
        let (table, source) = (random((9, d)), random((6, d)));
        let rows = [8, 0, 3, 3, 3, 0];
        agrees("gather_rows", || vec![gather_rows(&table, &rows).unwrap()]);
        agrees("scatter_rows", || changed(&table, |table| scatter_rows(table, &[8, 0, 3, 2, 7, 1], &source)));
        // Added one after another in the same order: the very same bytes.
        equals(|| changed(&table, |table| add_rows_at(table, &rows, &source))[0].to_vec2::<f32>().unwrap());
    }
}

#[test]
fn argmax_takes_the_first_of_equals_and_never_a_nan() {
    let rows: Vec<Vec<f32>> = vec![
        (0..300).map(|i| ((i * 37) % 101) as f32).collect(),
        (0..300).map(|i| if i == 5 { f32::NAN } else { -(i as f32) }).collect(),
        vec![f32::NEG_INFINITY; 300],
        (0..300).map(|i| if i >= 290 { 1.0 } else { f32::NEG_INFINITY }).collect(),
    ];
    let x = Tensor::new(rows, &Device::Cpu).unwrap();
    equals(|| argmax_rows(&x).unwrap());
    let narrow = random((3, 1));
    equals(|| argmax_rows(&narrow).unwrap());
}

#[test]
fn products_of_matrices_call_cublas_as_it_counts() {
    let (m, n, k) = (5, 4, 7);
    let (a, b) = (random((m, k)), random((k, n)));
    let (at, bt) = (a.t().unwrap().contiguous().unwrap(), b.t().unwrap().contiguous().unwrap());
    let dst = random((m + 4, n));
    agrees("matmul", || vec![matmul(&a, &b).unwrap()]);
    agrees("matmul_nt", || vec![matmul_nt(&a, &bt).unwrap()]);
    agrees("matmul_tn", || vec![matmul_tn(&at, &b).unwrap()]);
    agrees("add_matmul", || changed(&dst, |dst| add_matmul(dst, 3..3 + m, &a, &b, -0.5)));
    agrees("add_matmul_nt", || changed(&dst, |dst| add_matmul_nt(dst, 3..3 + m, &a, &bt, 2.0)));
    // A narrowed operand starts behind the first element of its storage.
    let part = b.narrow(0, 2, 3).unwrap();
    agrees("matmul of a part", || vec![matmul(&a.narrow(1, 0, 3).unwrap().contiguous().unwrap(), &part).unwrap()]);
}

/// Attention forward and backward over sequences packed one after another.
fn check_attention(name: &str, lengths: &[usize], heads: usize, groups: usize, settings: AttentionSettings) {
    let t = lengths.iter().sum();
    let (query_width, key_width) = (heads * settings.head_width, groups * settings.head_width);
    let (q, k, v, dy) =
        (random((t, query_width)), random((t, key_width)), random((t, key_width)), random((t, query_width)));
    let spans = Rows::packed(lengths.iter().copied()).spans;
    agrees(&format!("attention, {name}"), || vec![attention(&q, &k, &v, &spans, settings).unwrap()]);
    agrees(&format!("attention_backward, {name}"), || {
        let (dq, dk, dv) = attention_backward((&q, &k, &v), &dy, &spans, settings).unwrap();
        vec![dq, dk, dv]
    });
}

#[test]
fn attention_agrees_with_the_cpu_for_every_setting() {
    let plain = AttentionSettings::causal(6);
    for (name, settings) in [
        ("plain", plain),
        ("a window of one", AttentionSettings { window: Some(1), ..plain }),
        ("windowed", AttentionSettings { window: Some(37), ..plain }),
        ("a window beyond all", AttentionSettings { window: Some(usize::MAX), ..plain }),
        ("capped", AttentionSettings { scale: 1.0, softcap: Some(1.5), ..plain }),
        ("both directions", AttentionSettings { causal: false, ..plain }),
        ("both directions, windowed", AttentionSettings { causal: false, window: Some(9), ..plain }),
        ("windowed and capped", AttentionSettings { window: Some(33), softcap: Some(2.0), ..plain }),
    ] {
        check_attention(name, &[3, 1, 70], 2, 1, settings);
    }
}

#[test]
fn attention_agrees_with_the_cpu_for_every_width_of_tile() {
    for (head_width, heads, groups) in [(32, 6, 2), (33, 1, 1), (64, 2, 2), (80, 1, 1), (128, 1, 1), (256, 1, 1)] {
        let settings = AttentionSettings::causal(head_width);
        check_attention(&format!("heads of {head_width}"), &[5, 35], heads, groups, settings);
    }
}

#[test]
fn attention_over_a_cache_agrees_with_the_cpu() {
    let (q, k, v) = (random((4, 12)), random((200, 6)), random((200, 6)));
    let spans = [
        Span { queries: 0..1, keys: 100..170, offset: 69 },
        Span { queries: 1..2, keys: 10..11, offset: 0 },
        Span { queries: 2..4, keys: 30..80, offset: 48 },
    ];
    for window in [None, Some(20)] {
        let settings = AttentionSettings { window, ..AttentionSettings::causal(6) };
        agrees("attention over a cache", || vec![attention(&q, &k, &v, &spans, settings).unwrap()]);
    }
}

fn small_model() -> (Model, LoraAdapter) {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
    }));
    let weight = |_: &str, shape: &[usize]| Ok((random(shape) * 0.5)?);
    let model = build_fresh_model(config.unwrap(), &Device::Cpu, weight).unwrap();
    let peft = PeftConfig::new(3, 6, &["q_proj", "v_proj", "gate_proj", "down_proj"], "");
    let mut adapter = LoraAdapter::fresh(peft, model.config(), &mut || 0.1).unwrap();
    for factors in adapter.factors.values_mut() {
        factors.a = random(factors.a.shape().clone());
        factors.b = random(factors.b.shape().clone());
    }
    (model, adapter)
}

#[test]
fn a_whole_training_pass_and_generation_agree_with_the_cpu() {
    let (model, adapter) = small_model();
    let bound = [BoundAdapter::bind(&adapter, model.linear_modules()).unwrap()];
    let tokens = [3u32, 5, 7, 11, 13, 17, 19, 5];
    let rows = Rows::packed([5, 3]).in_one_group();
    let pass = Pass { params: model.params(), rows: &rows, adapters: &bound, cache: None };
    let targets: Vec<_> = [1u32, 2, 6].iter().map(|&row| Target { row, token: row + 1, weight: 0.5 }).collect();
    agrees_within(OF_A_MODEL, "gradients of all weights", || {
        let mut gradients = Gradients::of_weights(model.params());
        let (losses, d_embedded) = model.loss_and_gradients(&tokens, &targets, pass, &mut gradients).unwrap();
        let mut all = vec![Tensor::new(losses, &Device::Cpu).unwrap(), d_embedded];
        all.extend(model.params().iter().map(|(id, _, _)| gradients.weight(id).unwrap().clone()));
        all
    });
    agrees_within(OF_A_MODEL, "gradients of an adapter", || {
        let mut gradients = Gradients::of_adapters(1, model.linear_modules().len());
        model.loss_and_gradients(&tokens, &targets, pass, &mut gradients).unwrap();
        gradients.variant(0).iter().flatten().flat_map(|f| [f.a.clone(), f.b.clone()]).collect()
    });
    let options = GenerateOptions { max_new_tokens: 6, stop: vec![], batch_rows: 2 };
    let prompts = [vec![1, 2, 3], vec![7], vec![4, 4, 4, 4]];
    equals(|| generate_greedy(&model, Some(&adapter), &prompts, &options).unwrap());
}

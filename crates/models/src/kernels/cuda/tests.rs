//! Every kernel's CUDA source and launch against the CPU kernel on the same numbers: emulated on the CPU (see
//! `emulated.rs` for what that proves), and on a GPU where this build has CUDA and one opens. Each test
//! prints the largest difference that it saw.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::LazyLock;

use candle_core::{Device, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::support::{numbers, random_adapter, random_model, tiny_decoders};
use super::emulated::emulated;
use crate::BoundAdapter;
use crate::kernels::*;
use crate::layers::{Gradients, KvCache, Pass, Rows, Target};
use crate::taps::NoTap;

#[allow(dead_code)] // the integration tests use the rest
#[path = "../../../tests/it/support.rs"]
mod support;

/// The device on which `support` makes its models.
fn device() -> Device {
    Device::Cpu
}

/// Relative to the largest element; what float32 sums in another order differ by.
const TOLERANCE: f64 = 2e-6;
/// The same behind a whole model, forward and backward.
const OF_A_MODEL: f64 = 2e-5;

static GPU: LazyLock<Option<Device>> = LazyLock::new(|| {
    if !cfg!(feature = "cuda") {
        return None;
    }
    let device = crate::open_device("cuda");
    device.inspect_err(|why| eprintln!("no GPU opens, so no kernel is compared on one: {why}")).ok()
});

thread_local! {
    static RNG: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(11));
}

fn random<S: Into<Shape>>(shape: S) -> Tensor {
    let shape = shape.into();
    let numbers = RNG.with_borrow_mut(|rng| (0..shape.elem_count()).map(|_| rng.random_range(-1.7f32..1.7)).collect());
    Tensor::from_vec::<_, f32>(numbers, shape, &Device::Cpu).unwrap()
}

/// The result of `kernel` on the CPU, and then those emulated and on a GPU, each with the place's name.
fn everywhere<R, const N: usize>(
    inputs: [&Tensor; N],
    kernel: impl Fn([&Tensor; N]) -> R,
) -> (R, Vec<(&'static str, R)>) {
    let expected = kernel(inputs);
    let mut found = Vec::new();
    found.extend(emulated(|| kernel(inputs)).map(|result| ("emulated", result)));
    if let Some(gpu) = &*GPU {
        let there = inputs.map(|x| x.to_device(gpu).unwrap());
        found.push(("on the GPU", kernel(there.each_ref())));
    }
    (expected, found)
}

/// Compares the tensors that `kernel` returns.
fn agrees<const N: usize>(name: &str, inputs: [&Tensor; N], kernel: impl Fn([&Tensor; N]) -> Vec<Tensor>) {
    let (expected, found) = everywhere(inputs, kernel);
    for (place, found) in found {
        compare(TOLERANCE, &format!("{name} {place}"), &found, &expected);
    }
}

fn compare(tolerance: f64, name: &str, found: &[Tensor], expected: &[Tensor]) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(f, e)| difference(f, e)).fold(0.0, worse);
    eprintln!("{name}: {worst:.1e}");
    assert!(worst < tolerance, "{name}: {worst:.1e}");
}

/// Largest difference over the largest element.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (numbers(found), numbers(expected));
    let largest = expected.iter().fold(1e-30f64, |largest, x| largest.max(x.abs()));
    found.iter().zip(&expected).map(|(f, e)| (f - e).abs() / largest).fold(0.0, worse)
}

/// The larger one; a NaN is worse than any number.
fn worse(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// As [`agrees`], for results on the host that must be equal.
fn equals<R: PartialEq + Debug, const N: usize>(inputs: [&Tensor; N], kernel: impl Fn([&Tensor; N]) -> R) {
    let (expected, found) = everywhere(inputs, kernel);
    for (place, found) in found {
        assert_eq!(found, expected, "{place}");
    }
}

/// Runs a kernel that changes a tensor on a copy of it.
fn changed(start: &Tensor, change: impl Fn(&Tensor) -> crate::Result<()>) -> Vec<Tensor> {
    let copy = start.copy().unwrap();
    change(&copy).unwrap();
    vec![copy]
}

/// A list of numbers from the host.
fn listed(numbers: &[f32]) -> Tensor {
    Tensor::new(numbers, &Device::Cpu).unwrap()
}

#[test]
fn norms_agree_with_the_cpu_on_narrow_and_wide_rows() {
    for (t, d) in [(1, 1), (5, 33), (70, 300), (3, 1111)] {
        let (x, w, b, dy) = (random((t, d)), random(d), random(d), random((t, d)));
        for offset in [0.0, 1.0] {
            agrees("rms_norm", [&x, &w], |[x, w]| vec![rms_norm(x, w, offset, 1e-5).unwrap()]);
            agrees("rms_norm_backward", [&x, &w, &dy], |[x, w, dy]| {
                vec![rms_norm_backward(x, w, offset, dy, 1e-5).unwrap()]
            });
        }
        agrees("rms_norm_weight_gradient", [&x, &dy], |[x, dy]| vec![rms_norm_weight_gradient(x, dy, 1e-5).unwrap()]);
        agrees("layer_norm", [&x, &w, &b], |[x, w, b]| vec![layer_norm(x, w, b, 1e-5).unwrap()]);
        agrees("layer_norm_backward", [&x, &w, &dy], |[x, w, dy]| vec![layer_norm_backward(x, w, dy, 1e-5).unwrap()]);
        agrees("layer_norm_weight_gradient", [&x, &dy], |[x, dy]| {
            vec![layer_norm_weight_gradient(x, dy, 1e-5).unwrap()]
        });
    }
}

#[test]
fn rotation_agrees_with_the_cpu_both_ways() {
    let x = random((7, 5 * 8));
    let positions = [0, 39, 1, 1, 17, 2, 30];
    // Of heads eight wide all turns, or six elements do.
    for frequencies in [&[1.0, 0.3, 0.05, 0.01][..], &[1.0, 0.3, 0.05]] {
        let table = RopeTable::new(frequencies, 8, 40);
        for direction in [Direction::Forward, Direction::Backward] {
            agrees("rotate", [&x], |[x]| changed(x, |x| rotate(x, &table, &positions, direction)));
        }
    }
}

#[test]
fn elementwise_kernels_agree_with_the_cpu() {
    use Activation::{Gelu, GeluTanh, Relu, Silu, Tanh};
    for shape in [(1, 1), (7, 129), (40, 300)] {
        let (a, b, dy) = (random(shape), random(shape), random(shape));
        for activation in [Silu, Gelu, GeluTanh, Relu, Tanh] {
            agrees(&format!("activate {activation:?}"), [&a], |[a]| vec![activate(a, activation).unwrap()]);
            agrees(&format!("activate_backward {activation:?}"), [&a, &dy], |[a, dy]| {
                vec![activate_backward(a, dy, activation).unwrap()]
            });
            agrees(&format!("gated {activation:?}"), [&a, &b], |[a, b]| vec![gated(a, b, activation).unwrap()]);
            agrees(&format!("gated_backward {activation:?}"), [&a, &b, &dy], |[a, b, dy]| {
                let (d_gate, d_up) = gated_backward(a, b, dy, activation).unwrap();
                vec![d_gate, d_up]
            });
        }
        agrees("cap", [&a], |[a]| changed(a, |a| cap(a, 0.8)));
        agrees("cap_backward", [&a, &dy], |[a, dy]| changed(dy, |d| cap_backward(d, a, 2.0)));
        agrees("add", [&a, &b], |[a, b]| vec![add(a, b).unwrap()]);
        agrees("scale", [&a], |[a]| changed(a, |a| scale(a, -0.37)));
        agrees("sum_of_squares", [&a], |[a]| vec![listed(&[sum_of_squares(a).unwrap() as f32])]);
    }
    agrees("sum_of_squares", [&random(40_000)], |[x]| vec![listed(&[sum_of_squares(x).unwrap() as f32])]);
}

#[test]
fn adamw_agrees_with_the_cpu_over_several_steps() {
    let weight = random((13, 57));
    let gradients = [random((13, 57)), random((13, 57)), random((13, 57))];
    let optimiser = AdamW { weight_decay: 0.1, ..AdamW::default() };
    let [first, second, third] = gradients.each_ref();
    agrees("adamw", [&weight, first, second, third], |[weight, gradients @ ..]| {
        changed(weight, |weight| {
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
        agrees("cross_entropy", [&logits], |[logits]| {
            vec![listed(&cross_entropy(logits, &targets, None).unwrap().losses)]
        });
        agrees("cross_entropy with gradient", [&logits], |[logits]| {
            let entropy = cross_entropy(logits, &targets, Some(&weights)).unwrap();
            vec![listed(&entropy.losses), entropy.gradient.unwrap()]
        });
    }
}

#[test]
fn rows_move_and_add_up_as_on_the_cpu() {
    for d in [1, 31, 700] {
        let (table, source) = (random((9, d)), random((6, d)));
        let rows = [8, 0, 3, 3, 3, 0];
        agrees("gather_rows", [&table], |[table]| vec![gather_rows(table, &rows).unwrap()]);
        agrees("scatter_rows", [&table, &source], |[table, source]| {
            changed(table, |table| scatter_rows(table, &[8, 0, 3, 2, 7, 1], source))
        });
        // Added one after another in the same order: the very same bytes.
        equals([&table, &source], |[table, source]| {
            changed(table, |table| add_rows_at(table, &rows, source))[0].to_vec2::<f32>().unwrap()
        });
    }
}

#[test]
fn columns_are_biased_summed_split_and_joined_as_on_the_cpu() {
    for (t, widths) in [(1, [1, 2, 3]), (150, [40, 7, 100])] {
        let d: usize = widths.iter().sum();
        let (x, bias) = (random((t, d)), random(d));
        agrees("add_to_rows", [&x, &bias], |[x, bias]| changed(x, |x| add_to_rows(x, bias)));
        agrees("column_sums", [&x], |[x]| vec![column_sums(x).unwrap()]);
        agrees("split_columns", [&x], |[x]| split_columns(x, widths).unwrap().into());
        let parts = split_columns(&x, widths).unwrap();
        agrees("join_columns", parts.each_ref(), |[a, b, c]| vec![join_columns([c, a, b]).unwrap()]);
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
    for x in [Tensor::new(rows, &Device::Cpu).unwrap(), random((3, 1))] {
        equals([&x], |[x]| argmax_rows(x).unwrap());
    }
}

#[test]
fn products_of_matrices_call_cublas_as_it_counts() {
    let (m, n, k) = (5, 4, 7);
    let (a, b) = (random((m, k)), random((k, n)));
    let (at, bt) = (a.t().unwrap().contiguous().unwrap(), b.t().unwrap().contiguous().unwrap());
    let dst = random((m + 4, n));
    agrees("matmul", [&a, &b], |[a, b]| vec![matmul(a, b).unwrap()]);
    agrees("matmul_nt", [&a, &bt], |[a, bt]| vec![matmul_nt(a, bt).unwrap()]);
    agrees("matmul_tn", [&at, &b], |[at, b]| vec![matmul_tn(at, b).unwrap()]);
    agrees("add_matmul", [&dst, &a, &b], |[dst, a, b]| changed(dst, |dst| add_matmul(dst, 3..3 + m, a, b, -0.5)));
    agrees("add_matmul_nt", [&dst, &a, &bt], |[dst, a, bt]| {
        changed(dst, |dst| add_matmul_nt(dst, 3..3 + m, a, bt, 2.0))
    });
    // A narrowed operand starts behind the first element of its storage.
    agrees("matmul of a part", [&random((m, 3)), &b], |[a, b]| vec![matmul(a, &b.narrow(0, 2, 3).unwrap()).unwrap()]);
}

/// Attention forward and backward over sequences packed one after another.
fn check_attention(name: &str, lengths: &[usize], heads: usize, groups: usize, settings: AttentionSettings) {
    let t = lengths.iter().sum();
    let (query_width, key_width) = (heads * settings.head_width, groups * settings.head_width);
    let (q, k, v) = (random((t, query_width)), random((t, key_width)), random((t, key_width)));
    let dy = random((t, query_width));
    let spans = Rows::packed(lengths.iter().copied()).spans;
    agrees(&format!("attention, {name},"), [&q, &k, &v], |[q, k, v]| {
        vec![attention(q, k, v, &spans, settings).unwrap()]
    });
    agrees(&format!("attention_backward, {name},"), [&q, &k, &v, &dy], |[q, k, v, dy]| {
        let (dq, dk, dv) = attention_backward(q, k, v, dy, &spans, settings).unwrap();
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
        agrees("attention over a cache", [&q, &k, &v], |[q, k, v]| vec![attention(q, k, v, &spans, settings).unwrap()]);
    }
}

/// The decoders that between them use every kernel and every form of a layer.
fn different_decoders() -> Vec<serde_json::Value> {
    let different =
        |config: &serde_json::Value| ["qwen3", "gemma2", "phi3", "gpt2"].iter().any(|t| config["model_type"] == *t);
    tiny_decoders().into_iter().filter(different).collect()
}

#[test]
fn a_training_pass_of_a_whole_model_agrees_with_the_cpu() {
    for config in different_decoders() {
        let name = config["model_type"].as_str().unwrap();
        let model = random_model(&config);
        let adapter = [BoundAdapter::bind(&random_adapter(&model, 3, 2), model.linear_modules()).unwrap()];
        let rows = Rows::packed([5]).in_one_group();
        let pass = Pass { params: model.params(), rows: &rows, adapters: &adapter, cache: None };
        let targets: Vec<_> = [1u32, 2, 4].iter().map(|&row| Target { row, token: row + 1, weight: 0.5 }).collect();
        let run = |mut gradients: Gradients| {
            let tokens = [3u32, 5, 7, 11, 13];
            let (losses, d_embedded) = model.loss_and_gradients(&tokens, &targets, pass, &mut gradients).unwrap();
            (gradients, vec![listed(&losses), d_embedded])
        };
        let of_weights = || {
            let (gradients, mut found) = run(Gradients::of_weights(model.params()));
            found.extend(model.params().iter().map(|(id, _, _)| gradients.weight(id).unwrap().clone()));
            found
        };
        if let Some(found) = emulated(of_weights) {
            compare(OF_A_MODEL, &format!("{name}: gradients of all weights"), &found, &of_weights());
        }
        let of_an_adapter = || {
            let (gradients, mut found) = run(Gradients::of_adapters(1, model.linear_modules().len()));
            found.extend(gradients.variant(0).iter().flatten().flat_map(|f| [f.a.clone(), f.b.clone()]));
            found
        };
        // Low-rank products are the same whatever the family; one that stores its weights the other way round
        // will do.
        if let Some(found) = (name == "gpt2").then(|| emulated(of_an_adapter)).flatten() {
            compare(OF_A_MODEL, &format!("{name}: gradients of an adapter"), &found, &of_an_adapter());
        }
    }
}

#[test]
fn decoding_over_a_cache_agrees_with_the_cpu() {
    let model = random_model(&tiny_decoders()[0]);
    let decode = || {
        let heads = model.config().attention_heads();
        let width = heads.key_value_heads * heads.head_width;
        let cache = KvCache::new(model.config().layers(), 8, width, model.params().len(), model.device()).unwrap();
        let run = |tokens: &[u32], rows: Rows, cache_rows: &[u32]| {
            let cache = Some((&cache, cache_rows));
            let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache };
            let hidden = model.forward(model.embed(tokens).unwrap(), pass, &mut NoTap).unwrap();
            model.logits(&hidden, &[tokens.len() as u32 - 1], pass).unwrap()
        };
        let prefill = run(&[3, 5, 7], Rows::packed([3]), &[0, 1, 2]);
        let span = Span { queries: 0..1, keys: 0..4, offset: 3 };
        let step = run(&[9], Rows { spans: vec![span], positions: vec![3], ..Rows::default() }, &[3]);
        vec![prefill, step]
    };
    if let Some(found) = emulated(decode) {
        compare(OF_A_MODEL, "decoding", &found, &decode());
    }
}

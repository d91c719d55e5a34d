//! Every backward against central finite differences of its forward, along random directions.

use std::cell::RefCell;

use antigen_models::kernels::*;
use antigen_models::layers::{Gradients, Pass, Rows, Target};
use antigen_models::taps::NoTap;
use antigen_models::{BoundAdapter, Device, FamilyConfig, LoraAdapter, Model, PeftConfig, Tensor, build_fresh_model};
use candle_core::Shape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::support::{numbers, relative_distance};

thread_local! {
    /// Every test runs on a thread of its own and draws the same numbers each time.
    static RNG: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(7));
}

/// Numbers between -1.7 and 1.7, which have about unit variance.
fn random<S: Into<Shape>>(shape: S) -> Tensor {
    let shape = shape.into();
    let numbers = RNG.with_borrow_mut(|rng| (0..shape.elem_count()).map(|_| rng.random_range(-1.7f32..1.7)).collect());
    Tensor::from_vec::<_, f32>(numbers, shape, &Device::Cpu).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum()
}

/// `<gradient, direction>` against the slope of `f` along random directions: central differences at two distances, extrapolated so
/// that the error of third order cancels. Sums are float64, kernels float32.
fn agrees(what: &str, x: &Tensor, gradient: &Tensor, f: impl Fn(&Tensor) -> f64) {
    for _ in 0..4 {
        let direction = random(x.shape().clone());
        let slope_at = |h: f64| {
            let moved = |sign: f64| f(&(x + (&direction * (sign * h)).unwrap()).unwrap());
            (moved(1.0) - moved(-1.0)) / (2.0 * h)
        };
        let slope = (4.0 * slope_at(4e-3) - slope_at(8e-3)) / 3.0;
        let expected = dot(gradient, &direction);
        let scale = expected.abs().max(dot(gradient, gradient).sqrt());
        assert!((slope - expected).abs() < 1e-3 * scale, "{what}: slope {slope}, gradient {expected}");
    }
}

#[test]
fn rms_norm_backward_is_the_slope_of_its_forward() {
    let (x, dy) = (random((5, 24)), random((5, 24)));
    let weight = ((random(24) * 0.3).unwrap() + 1.0).unwrap();
    let epsilon = 1e-5;
    agrees("x", &x, &rms_norm_backward(&x, &weight, &dy, epsilon).unwrap(), |x| {
        dot(&rms_norm(x, &weight, epsilon).unwrap(), &dy)
    });
    agrees("weight", &weight, &rms_norm_weight_gradient(&x, &dy, epsilon).unwrap(), |w| {
        dot(&rms_norm(&x, w, epsilon).unwrap(), &dy)
    });
}

#[test]
fn swiglu_backward_is_the_slope_of_its_forward() {
    let (gate, up, dy) = (random((6, 20)), random((6, 20)), random((6, 20)));
    let (d_gate, d_up) = swiglu_backward(&gate, &up, &dy).unwrap();
    agrees("gate", &gate, &d_gate, |g| dot(&swiglu(g, &up).unwrap(), &dy));
    agrees("up", &up, &d_up, |u| dot(&swiglu(&gate, u).unwrap(), &dy));
}

#[test]
fn rotation_backward_undoes_the_forward() {
    let table = RopeTable::new(&[1.0, 0.1, 0.01, 0.001], 32);
    let positions: Vec<u32> = vec![0, 1, 7, 31];
    let x = random((4, 16));
    let turned = x.copy().unwrap();
    rotate(&turned, &table, &positions, Direction::Forward).unwrap();
    assert!((dot(&turned, &turned) - dot(&x, &x)).abs() < 1e-4, "a rotation keeps lengths");
    assert!(dot(&turned, &x) < dot(&x, &x) - 0.1, "and turns rows behind the first");
    rotate(&turned, &table, &positions, Direction::Backward).unwrap();
    let distance = (turned - x).unwrap();
    assert!(dot(&distance, &distance) < 1e-10);
}

/// Packed sequences of these lengths, one after another.
fn packed(lengths: &[usize]) -> Vec<Span> {
    Rows::packed(lengths.iter().copied()).spans
}

#[test]
fn attention_backward_is_the_slope_of_its_forward_over_packed_sequences_longer_than_a_tile() {
    let spans = packed(&[3, 1, 70]);
    let (q, k, v, dy) = (random((74, 4 * 6)), random((74, 2 * 6)), random((74, 2 * 6)), random((74, 4 * 6)));
    let plain = AttentionSettings::causal(6);
    for (name, settings) in [
        ("plain", plain),
        ("windowed", AttentionSettings { window: Some(5), ..plain }),
        ("capped", AttentionSettings { scale: 1.0, softcap: Some(1.5), ..plain }),
        ("of both directions", AttentionSettings { causal: false, ..plain }),
        ("windowed and capped", AttentionSettings { window: Some(3), softcap: Some(2.0), ..plain }),
    ] {
        let (dq, dk, dv) = attention_backward((&q, &k, &v), &dy, &spans, settings).unwrap();
        let along = |q: &Tensor, k: &Tensor, v: &Tensor| dot(&attention(q, k, v, &spans, settings).unwrap(), &dy);
        agrees(&format!("queries, {name}"), &q, &dq, |q| along(q, &k, &v));
        agrees(&format!("keys, {name}"), &k, &dk, |k| along(&q, k, &v));
        agrees(&format!("values, {name}"), &v, &dv, |v| along(&q, &k, v));
    }
}

/// What the settings say, one query and one key at a time, in float64; one head.
fn attention_by_hand(q: &Tensor, k: &Tensor, v: &Tensor, span: &Span, settings: AttentionSettings) -> Vec<f64> {
    let rows = |x: &Tensor| x.to_vec2::<f32>().unwrap();
    let (q, k, v) = (rows(q), rows(k), rows(v));
    let mut out = Vec::new();
    for (i, query) in span.queries.clone().map(|row| &q[row]).enumerate() {
        let position = span.offset + i;
        let seen = span.keys.clone().enumerate().filter(|(j, _)| {
            (!settings.causal || *j <= position) && settings.window.is_none_or(|window| position < j + window)
        });
        let (mut total, mut sum) = (0.0, vec![0.0; settings.head_width]);
        for (_, row) in seen {
            let product: f64 = query.iter().zip(&k[row]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let score = product * f64::from(settings.scale);
            let capped = settings.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
            total += capped.exp();
            sum.iter_mut().zip(&v[row]).for_each(|(sum, v)| *sum += capped.exp() * f64::from(*v));
        }
        out.extend(sum.iter().map(|s| s / total));
    }
    out
}

#[test]
fn attention_is_what_its_settings_say_for_every_query_and_key() {
    let (q, k, v) = (random((70, 6)), random((90, 6)), random((90, 6)));
    // Seventy queries that continue a cache of ten earlier keys; other sequences' keys lie around them.
    let span = Span { queries: 0..70, keys: 5..85, offset: 10 };
    let plain = AttentionSettings::causal(6);
    for settings in [
        plain,
        AttentionSettings { window: Some(1), ..plain },
        AttentionSettings { window: Some(7), ..plain },
        AttentionSettings { window: Some(500), ..plain },
        AttentionSettings { causal: false, ..plain },
        AttentionSettings { causal: false, window: Some(7), ..plain },
        AttentionSettings { scale: 0.7, softcap: Some(2.0), window: Some(9), ..plain },
    ] {
        let found = attention(&q, &k, &v, std::slice::from_ref(&span), settings).unwrap();
        let distance = relative_distance(&numbers(&found), &attention_by_hand(&q, &k, &v, &span, settings));
        assert!(distance < 1e-6, "{settings:?}: {distance:.1e}");
    }
}

#[test]
fn a_packed_sequence_never_sees_its_neighbour_nor_its_own_future() {
    let (q, k, v) = (random((8, 8)), random((8, 8)), random((8, 8)));
    let (spans, settings) = (packed(&[5, 3]), AttentionSettings::causal(4));
    let before = attention(&q, &k, &v, &spans, settings).unwrap();
    let other = Tensor::cat(&[v.narrow(0, 0, 4).unwrap(), random((4, 8))], 0).unwrap();
    let after = attention(&q, &k, &other, &spans, settings).unwrap();
    let first = |x: &Tensor| numbers(&x.narrow(0, 0, 4).unwrap());
    assert_eq!(first(&before), first(&after), "rows before the change stay as they were");
    assert_ne!(numbers(&before), numbers(&after));
}

#[test]
fn cross_entropy_gradient_is_the_slope_of_the_weighted_loss() {
    let logits = random((5, 33));
    let (targets, weights) = ([0u32, 32, 7, 7, 1], [1.0f32, 0.5, 2.0, 0.0, 0.25]);
    let loss = |z: &Tensor| -> f64 {
        let losses = cross_entropy(z, &targets, None).unwrap().losses;
        losses.iter().zip(weights).map(|(l, w)| f64::from(*l) * f64::from(w)).sum()
    };
    let both = cross_entropy(&logits, &targets, Some(&weights)).unwrap();
    assert_eq!(both.losses, cross_entropy(&logits, &targets, None).unwrap().losses);
    agrees("logits", &logits, &both.gradient.unwrap(), loss);
}

/// A model of two layers, larger weights than usual so that no gradient drowns in rounding, under an adapter with both factors set.
fn small_model() -> (Model, BoundAdapter) {
    let config = FamilyConfig::from_json(&json!({
        "model_type": "llama", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
    }));
    let model = build_fresh_model(config.unwrap(), &Device::Cpu, |name, shape| {
        let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let deviation = if name.contains("embed") { 1.0 } else { 0.25 };
        Ok(((random(shape) * deviation)? + mean)?)
    })
    .unwrap();
    let peft = PeftConfig::new(3, 6, &["q_proj", "v_proj", "gate_proj", "down_proj"], "");
    let mut adapter = LoraAdapter::fresh(peft, model.config(), &mut || 0.1).unwrap();
    for factors in adapter.factors.values_mut() {
        factors.a = (random(factors.a.shape().clone()) * 0.3).unwrap();
        factors.b = (random(factors.b.shape().clone()) * 0.3).unwrap();
    }
    let bound = BoundAdapter::bind(&adapter, model.linear_modules()).unwrap();
    (model, bound)
}

#[test]
fn a_model_s_gradient_of_its_input_embeddings_is_the_slope_of_its_loss() {
    let (model, adapter) = small_model();
    let tokens = [3u32, 5, 7, 11, 13, 17, 19];
    let rows = Rows::packed([4, 3]).in_one_group();
    let adapters = [adapter];
    let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
    let targets: Vec<_> = [1u32, 2, 5].iter().map(|&row| Target { row, token: row + 1, weight: 1.0 }).collect();
    let (_, gradient) = model.loss_and_gradients(&tokens, &targets, pass, &mut Gradients::of_inputs()).unwrap();
    let loss = |embedded: &Tensor| -> f64 {
        let hidden = model.forward(embedded.clone(), pass, &mut NoTap).unwrap();
        let rows: Vec<u32> = targets.iter().map(|t| t.row).collect();
        let tokens: Vec<u32> = targets.iter().map(|t| t.token).collect();
        let logits = model.logits(&hidden, &rows, pass).unwrap();
        cross_entropy(&logits, &tokens, None).unwrap().losses.iter().map(|l| f64::from(*l)).sum()
    };
    agrees("embeddings", &model.embed(&tokens).unwrap(), &gradient, loss);
}

#[test]
fn a_linear_layer_s_gradients_are_the_slopes_of_its_forward_for_input_weight_and_both_factors() {
    let (model, adapter) = small_model();
    let rows = Rows::packed([6]).in_one_group();
    let linear = antigen_models::layers::Linear {
        module: antigen_models::layers::ModuleIdx(0),
        weight: model.params().find("model.layers.0.self_attn.q_proj.weight").unwrap(),
    };
    let (x, dy) = (random((6, 16)), random((6, 16)));
    let factors = adapter.factors(linear.module).unwrap().clone();
    let output = |x: &Tensor, a: &Tensor, b: &Tensor| {
        let base = matmul_nt(x, model.params().get(linear.weight)).unwrap();
        let update = matmul_nt(&matmul_nt(x, a).unwrap(), b).unwrap();
        dot(&(base + (update * factors.scaling).unwrap()).unwrap(), &dy)
    };
    let adapters = [adapter];
    let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
    let (y, trace) = linear.forward(&x, pass).unwrap();
    assert!((dot(&y, &dy) - output(&x, &factors.a, &factors.b)).abs() < 1e-4);
    let mut gradients = Gradients::of_adapters(1, model.linear_modules().len());
    let dx = linear.backward(&x, &trace, &dy, pass, &mut gradients, None).unwrap();
    let of_factors = gradients.variant(0)[0].clone().unwrap();
    agrees("input", &x, &dx, |x| output(x, &factors.a, &factors.b));
    agrees("factor a", &factors.a, &of_factors.a, |a| output(&x, a, &factors.b));
    agrees("factor b", &factors.b, &of_factors.b, |b| output(&x, &factors.a, b));
    let mut of_weights = Gradients::of_weights(model.params());
    linear.backward(&x, &trace, &dy, pass, &mut of_weights, None).unwrap();
    let d_weight = of_weights.weight(linear.weight).unwrap();
    agrees("weight", model.params().get(linear.weight), d_weight, |w| dot(&matmul_nt(&x, w).unwrap(), &dy));
}

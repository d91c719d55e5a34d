//! Every backward against central finite differences of its forward, along random directions.

use std::cell::RefCell;

use antigen_models::kernels::*;
use antigen_models::layers::{Gradients, Guide, LabelTarget, Linear, ModuleIdx, Pass, Rows, Target};
use antigen_models::params::{ParamId, Params};
use antigen_models::taps::{NoTap, Tap, softmax};
use antigen_models::{BoundAdapter, Input, Model, Stored, Tensor};
use candle_core::Shape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::support::{
    numbers, random_adapter, random_llama, random_model, relative_distance, tiny_classifiers, tiny_decoders,
};

thread_local! {
    /// Every test runs on a thread of its own and draws the same numbers each time.
    static RNG: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(7));
}

/// Numbers between -1.7 and 1.7, which have about unit variance.
fn random<S: Into<Shape>>(shape: S) -> Tensor {
    let shape = shape.into();
    let numbers = RNG.with_borrow_mut(|rng| (0..shape.elem_count()).map(|_| rng.random_range(-1.7f32..1.7)).collect());
    Tensor::from_vec::<_, f32>(numbers, shape, &super::device()).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum()
}

/// `<gradient, direction>` against the slope of `f` along random directions: central differences at two
/// distances, extrapolated so that the error of third order cancels. Sums are float64, kernels float32.
fn agrees(what: &str, x: &Tensor, gradient: &Tensor, f: impl Fn(&Tensor) -> f64) {
    for _ in 0..4 {
        let direction = random(x.shape().clone());
        let slope_at = |h: f64| {
            let moved = |sign: f64| f(&(x + (&direction * (sign * h)).unwrap()).unwrap());
            (moved(1.0) - moved(-1.0)) / (2.0 * h)
        };
        let slope = (4.0 * slope_at(4e-3) - slope_at(8e-3)) / 3.0;
        let expected = dot(gradient, &direction);
        // Sums of about 1 are rounded at 1e-7, which a step of 4e-3 makes 3e-5 of slope: no gradient is
        // measured more finely.
        let scale = expected.abs().max(dot(gradient, gradient).sqrt()).max(0.1);
        assert!((slope - expected).abs() < 1e-3 * scale, "{what}: slope {slope}, gradient {expected}");
    }
}

#[test]
fn rms_norm_backward_is_the_slope_of_its_forward() {
    let (x, dy) = (random((5, 24)), random((5, 24)));
    let epsilon = 1e-5;
    for (offset, mean) in [(0.0, 1.0), (1.0, 0.0)] {
        let weight = ((random(24) * 0.3).unwrap() + mean).unwrap();
        let along = |x: &Tensor, w: &Tensor| dot(&rms_norm(x, w, offset, epsilon).unwrap(), &dy);
        let dx = rms_norm_backward(&x, &weight, offset, &dy, epsilon).unwrap();
        agrees("x", &x, &dx, |x| along(x, &weight));
        agrees("weight", &weight, &rms_norm_weight_gradient(&x, &dy, epsilon).unwrap(), |w| along(&x, w));
    }
}

#[test]
fn layer_norm_backward_is_the_slope_of_its_forward() {
    // A mean as large as the deviation, as residual streams have.
    let (x, dy) = ((random((5, 24)) + 1.0).unwrap(), random((5, 24)));
    let weight = ((random(24) * 0.3).unwrap() + 1.0).unwrap();
    let (bias, epsilon) = (random(24), 1e-5);
    let along = |x: &Tensor, w: &Tensor, b: &Tensor| dot(&layer_norm(x, w, b, epsilon).unwrap(), &dy);
    agrees("x", &x, &layer_norm_backward(&x, &weight, &dy, epsilon).unwrap(), |x| along(x, &weight, &bias));
    agrees("weight", &weight, &layer_norm_weight_gradient(&x, &dy, epsilon).unwrap(), |w| along(&x, w, &bias));
    agrees("bias", &bias, &column_sums(&dy).unwrap(), |b| along(&x, &weight, b));
}

#[test]
fn layer_norm_leaves_rows_with_the_mean_and_deviation_that_bias_and_weight_ask_for() {
    let x = ((random((3, 400)) * 5.0).unwrap() + 7.0).unwrap();
    let (weight, bias) = (Tensor::full(2f32, 400, x.device()).unwrap(), Tensor::full(3f32, 400, x.device()).unwrap());
    for row in layer_norm(&x, &weight, &bias, 0.0).unwrap().to_vec2::<f32>().unwrap() {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / 400.0;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 400.0;
        assert!((mean - 3.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4, "{mean} {variance}");
    }
}

/// Numbers at least 0.1 away from 0, where `relu` has no slope.
fn away_from_zero(x: &Tensor) -> Tensor {
    (x + (x.sign().unwrap() * 0.1).unwrap()).unwrap()
}

#[test]
fn activation_backwards_are_the_slopes_of_their_forwards() {
    let (x, up, dy) = (away_from_zero(&random((6, 20))), random((6, 20)), random((6, 20)));
    for name in ["silu", "gelu", "gelu_new", "relu", "tanh"] {
        let activation = Activation::find(name).unwrap();
        let dx = activate_backward(&x, &dy, activation).unwrap();
        agrees(name, &x, &dx, |x| dot(&activate(x, activation).unwrap(), &dy));
        let (d_gate, d_up) = gated_backward(&x, &up, &dy, activation).unwrap();
        agrees(&format!("{name}, gate"), &x, &d_gate, |g| dot(&gated(g, &up, activation).unwrap(), &dy));
        agrees(&format!("{name}, up"), &up, &d_up, |u| dot(&gated(&x, u, activation).unwrap(), &dy));
    }
}

#[test]
fn activations_have_their_tabulated_values() {
    let x = Tensor::new(&[[-3f32, -1.0, 0.0, 0.5, 2.0]], &super::device()).unwrap();
    for (name, expected) in [
        ("silu", [-0.142_277_6, -0.268_941_4, 0.0, 0.311_229_7, 1.761_594_2]),
        ("gelu", [-0.004_049_7, -0.158_655_3, 0.0, 0.345_731_2, 1.954_499_7]),
        ("gelu_pytorch_tanh", [-0.003_637_4, -0.158_808_0, 0.0, 0.345_714_0, 1.954_597_7]),
        ("relu", [0.0, 0.0, 0.0, 0.5, 2.0]),
        ("tanh", [-0.995_054_8, -0.761_594_2, 0.0, 0.462_117_2, 0.964_027_6]),
    ] {
        let found = numbers(&activate(&x, Activation::find(name).unwrap()).unwrap());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 5e-7, "{name}: {found} for {expected}");
        }
    }
    assert_eq!(Activation::find("swiglu_oai"), None);
}

#[test]
fn capping_keeps_small_numbers_bounds_large_ones_and_has_the_slope_that_backward_says() {
    let x = (random((4, 9)) * 4.0).unwrap();
    let capped = |x: &Tensor| {
        let y = x.copy().unwrap();
        cap(&y, 3.0).unwrap();
        y
    };
    assert!(numbers(&capped(&(&x * 100.0).unwrap())).iter().all(|y| y.abs() <= 3.0));
    assert!(relative_distance(&numbers(&capped(&(&x * 1e-3).unwrap())), &numbers(&(&x * 1e-3).unwrap())) < 1e-5);
    let dy = random((4, 9));
    let d = dy.copy().unwrap();
    cap_backward(&d, &capped(&x), 3.0).unwrap();
    agrees("capped", &x, &d, |x| dot(&capped(x), &dy));
}

#[test]
fn joining_columns_undoes_splitting_them() {
    let x = random((5, 9));
    let [one, two, three] = split_columns(&x, [2, 3, 4]).unwrap();
    assert_eq!(numbers(&two), numbers(&x.narrow(1, 2, 3).unwrap().contiguous().unwrap()));
    assert_eq!(numbers(&join_columns([&one, &two, &three]).unwrap()), numbers(&x));
}

#[test]
fn rotation_backward_undoes_the_forward() {
    let table = RopeTable::new(&[1.0, 0.1, 0.01, 0.001], 8, 32);
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

#[test]
fn a_partial_rotation_turns_the_front_of_each_head_and_leaves_the_rest() {
    let (partial, whole) = (RopeTable::new(&[1.0, 0.1], 7, 8), RopeTable::new(&[1.0, 0.1], 4, 8));
    let x = random((3, 14));
    let positions = [1u32, 3, 7];
    let turned = x.copy().unwrap();
    rotate(&turned, &partial, &positions, Direction::Forward).unwrap();
    for head in [0, 7] {
        let front = x.narrow(1, head, 4).unwrap().contiguous().unwrap();
        rotate(&front, &whole, &positions, Direction::Forward).unwrap();
        assert_eq!(numbers(&turned.narrow(1, head, 4).unwrap()), numbers(&front));
        assert_eq!(numbers(&turned.narrow(1, head + 4, 3).unwrap()), numbers(&x.narrow(1, head + 4, 3).unwrap()));
    }
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
        let (dq, dk, dv) = attention_backward(&q, &k, &v, &dy, &spans, settings).unwrap();
        let along = |q: &Tensor, k: &Tensor, v: &Tensor| dot(&attention(q, k, v, &spans, settings).unwrap(), &dy);
        agrees(&format!("queries, {name}"), &q, &dq, |q| along(q, &k, &v));
        agrees(&format!("keys, {name}"), &k, &dk, |k| along(&q, k, &v));
        agrees(&format!("values, {name}"), &v, &dv, |v| along(&q, &k, v));
    }
}

/// Attention by the letter of the settings, one query and one key at a time, in float64; one head.
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

const TOKENS: [u32; 9] = [3, 5, 7, 11, 13, 17, 19, 2, 22];

#[test]
fn every_decoder_s_gradient_of_its_input_embeddings_is_the_slope_of_its_loss() {
    for config in tiny_decoders() {
        let model = random_model(&config);
        let rows = Rows::packed([6, 3]).in_one_group();
        let adapters = [BoundAdapter::bind(&random_adapter(&model, 3, 1), model.linear_modules()).unwrap()];
        let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
        let targets: Vec<_> = [1u32, 4, 5, 7].map(|row| Target { row, token: row + 1, weight: 1.0 }).into();
        let (_, gradient) = model.loss_and_gradients(&TOKENS, &targets, pass, &mut Gradients::of_inputs()).unwrap();
        let loss = |embedded: &Tensor| -> f64 {
            let hidden = model.forward(embedded.clone(), pass, &mut NoTap).unwrap();
            let rows: Vec<u32> = targets.iter().map(|t| t.row).collect();
            let tokens: Vec<u32> = targets.iter().map(|t| t.token).collect();
            let logits = model.logits(&hidden, &rows, pass).unwrap();
            cross_entropy(&logits, &tokens, None).unwrap().losses.iter().map(|l| f64::from(*l)).sum()
        };
        agrees(&config["model_type"].to_string(), &model.embed(&TOKENS).unwrap(), &gradient, loss);
    }
}

/// The loss `sum of <hidden state i, direction i>`, whose gradients are the directions.
struct AlongDirections {
    directions: Vec<Tensor>,
    loss: f64,
}

impl Tap for AlongDirections {
    fn hidden_state(&mut self, index: usize, hidden: &Tensor) {
        self.loss += dot(hidden, &self.directions[index]);
    }

    fn gradient(&mut self, index: usize) -> antigen_models::Result<Option<Tensor>> {
        Ok(Some(self.directions[index].clone()))
    }
}

#[test]
fn a_gradient_that_joins_at_every_hidden_state_is_the_slope_of_a_loss_on_all_of_them() {
    let target = [Target { row: 4, token: 5, weight: 0.5 }];
    for config in tiny_decoders() {
        let model = random_model(&config);
        let rows = Rows::packed([6, 3]);
        let layers = model.config().layers();
        let directions: Vec<Tensor> = (0..=layers).map(|_| random((9, 16))).collect();
        let loss = |model: &Model, embedded: &Tensor| -> f64 {
            let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
            let mut tap = AlongDirections { directions: directions.clone(), loss: 0.0 };
            let hidden = model.forward(embedded.clone(), pass, &mut tap).unwrap();
            let logits = model.logits(&hidden, &[4], pass).unwrap();
            tap.loss + 0.5 * f64::from(cross_entropy(&logits, &[5], None).unwrap().losses[0])
        };
        let embedded = model.embed(&TOKENS).unwrap();
        let mut gradients = Gradients::of_weights(model.params());
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let input = Input { tokens: &TOKENS, embedded: embedded.clone(), free: &[], guide: None };
        let mut tap = AlongDirections { directions: directions.clone(), loss: 0.0 };
        let (_, d_embedded) = model.loss_and_gradients_of(input, &target, pass, &mut tap, &mut gradients).unwrap();
        let family = &config["model_type"];
        agrees(&format!("{family}, input"), &embedded, &d_embedded, |embedded| loss(&model, embedded));
        // A weight below and one above the hidden states in the middle.
        let changed = RefCell::new(random_model(&config));
        for (id, name, weight) in
            model.params().iter().filter(|(_, name, _)| name.contains("down") || name.contains("c_fc"))
        {
            agrees(&format!("{family} {name}"), weight, gradients.weight(id).unwrap(), |weight| {
                changed.borrow_mut().params_mut().set(id, weight.clone());
                loss(&changed.borrow(), &embedded)
            });
            changed.borrow_mut().params_mut().set(id, weight.clone());
        }
    }
}

#[test]
fn a_guided_gradient_is_the_slope_of_the_loss_on_tokens_and_of_the_divergence_from_the_teacher() {
    // Gemma 2 caps its logits, Llama does not.
    for config in tiny_decoders()
        .into_iter()
        .filter(|config| ["llama", "gemma2"].contains(&config["model_type"].as_str().unwrap()))
    {
        let model = random_model(&config);
        let rows = Rows::packed([6, 3]);
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let targets: Vec<_> =
            [(1u32, 1.0), (4, 0.5), (7, 2.0)].map(|(row, weight)| Target { row, token: row + 1, weight }).into();
        let (temperature, weight) = (2.0, 0.7);
        let guide = Guide { logits: random((3, 23)), temperature, weight };
        let soft = |logits: &[f32]| softmax(logits.iter().map(|z| z / temperature as f32).collect());
        let teacher: Vec<Vec<f32>> = guide.logits.to_vec2().unwrap();
        let loss = |embedded: &Tensor| -> f64 {
            let hidden = model.forward(embedded.clone(), pass, &mut NoTap).unwrap();
            let rows: Vec<u32> = targets.iter().map(|t| t.row).collect();
            let logits = model.logits(&hidden, &rows, pass).unwrap();
            let tokens: Vec<u32> = targets.iter().map(|t| t.token).collect();
            let entropies = cross_entropy(&logits, &tokens, None).unwrap().losses;
            let students = logits.to_vec2::<f32>().unwrap();
            let of_one = |(i, target): (usize, &Target)| {
                let (entropy, shares) = (entropies[i], soft(&teacher[i]).into_iter().zip(soft(&students[i])));
                let divergence: f64 = shares.map(|(p, q)| f64::from(p) * (f64::from(p) / f64::from(q)).ln()).sum();
                f64::from(target.weight) * (f64::from(entropy) + weight * temperature * temperature * divergence)
            };
            targets.iter().enumerate().map(of_one).sum()
        };
        let embedded = model.embed(&TOKENS).unwrap();
        let input = Input { tokens: &TOKENS, embedded: embedded.clone(), free: &[], guide: Some(&guide) };
        let gradients = &mut Gradients::of_inputs();
        let (_, gradient) = model.loss_and_gradients_of(input, &targets, pass, &mut NoTap, gradients).unwrap();
        agrees(&config["model_type"].to_string(), &embedded, &gradient, loss);
    }
}

#[test]
fn a_row_that_reads_no_embedding_gives_the_embedding_no_gradient() {
    let model = random_llama(false);
    let rows = Rows::packed([6, 3]);
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    let targets: Vec<_> = [1u32, 4, 5, 7].map(|row| Target { row, token: row + 1, weight: 1.0 }).into();
    let table = |free: &[u32]| {
        let mut gradients = Gradients::of_weights(model.params());
        let input = Input { tokens: &TOKENS, embedded: model.embed(&TOKENS).unwrap(), free, guide: None };
        let (_, d) = model.loss_and_gradients_of(input, &targets, pass, &mut NoTap, &mut gradients).unwrap();
        let id = model.params().find("model.embed_tokens.weight").unwrap();
        (gradients.weight(id).unwrap().to_vec2::<f32>().unwrap(), d.to_vec2::<f32>().unwrap())
    };
    let ((all, d), (some, same_d)) = (table(&[]), table(&[3, 6]));
    assert_eq!(d, same_d, "the gradient of the input itself is whole");
    for (token, (all, some)) in all.iter().zip(&some).enumerate() {
        let is_free = token == TOKENS[3] as usize || token == TOKENS[6] as usize;
        assert_eq!(all == some, !is_free, "token {token}");
        assert!(!is_free || some.iter().all(|x| *x == 0.0));
    }
}

#[test]
fn every_classifier_s_gradients_of_its_weights_are_the_slopes_of_its_loss() {
    // DistilBERT's head has the kinks of a ReLU, which a step may cross; the parity table has its gradients,
    // and the others here have everything else in it.
    for config in tiny_classifiers().into_iter().filter(|config| config["model_type"] != "distilbert") {
        let model = random_model(&config);
        let rows = Rows::packed([6, 3]);
        let targets = [LabelTarget { label: 2, weight: 1.0 }, LabelTarget { label: 0, weight: 0.5 }];
        let mut gradients = Gradients::of_weights(model.params());
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let (losses, _) = model.label_loss_and_gradients(&TOKENS, &targets, pass, &mut gradients).unwrap();
        let changed = RefCell::new(random_model(&config));
        let loss = |id: ParamId, weight: &Tensor| -> f64 {
            let mut changed = changed.borrow_mut();
            changed.params_mut().set(id, weight.clone());
            let pass = Pass { params: changed.params(), rows: &rows, adapters: &[], cache: None };
            let logits = changed.classify(&TOKENS, pass).unwrap();
            let losses = cross_entropy(&logits, &targets.map(|t| t.label), None).unwrap().losses;
            losses.iter().zip(targets).map(|(loss, t)| f64::from(*loss) * f64::from(t.weight)).sum()
        };
        for (id, name, weight) in model.params().iter() {
            // What is outside the blocks, and every part of one block.
            if name.contains(".0.") || name.contains(".2.") {
                continue;
            }
            agrees(&format!("{} {name}", config["model_type"]), weight, gradients.weight(id).unwrap(), |w| loss(id, w));
            let back = loss(id, weight);
            assert!((back - f64::from(losses[0]) - 0.5 * f64::from(losses[1])).abs() < 1e-5, "{name} is put back");
        }
    }
}

#[test]
fn a_further_gradient_of_hidden_states_adds_its_slope_to_that_of_the_logits() {
    for config in tiny_classifiers().into_iter().filter(|config| config["model_type"] != "distilbert") {
        let model = random_model(&config);
        let rows = Rows::packed([6, 3]);
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let trace = model.classify_traced(&TOKENS, pass).unwrap();
        let (by_logits, by_hidden) =
            (random(trace.classified.logits.dims2().unwrap()), random(trace.hidden.dims2().unwrap()));
        let mut none = Gradients::of_inputs();
        let gradient = model.backward_labels(&TOKENS, trace, &by_logits, Some(&by_hidden), pass, &mut none).unwrap();
        // The tokens differ, so that a change of their table's rows is a change of the embedded input.
        let is_table =
            |name: &str| ["word_embeddings.", "embed_tokens.", "wte."].iter().any(|part| name.contains(part));
        let table = model.params().iter().find(|(_, name, _)| is_table(name)).unwrap().0;
        let changed = RefCell::new(random_model(&config));
        let loss = |embedded: &Tensor| -> f64 {
            let mut changed = changed.borrow_mut();
            let mut numbers = model.params().get(table).to_vec2::<f32>().unwrap();
            for (row, token) in embedded.to_vec2::<f32>().unwrap().into_iter().zip(TOKENS) {
                numbers[token as usize] = row;
            }
            changed.params_mut().set(table, Tensor::new(numbers, model.device()).unwrap());
            let pass = Pass { params: changed.params(), rows: &rows, adapters: &[], cache: None };
            let trace = changed.classify_traced(&TOKENS, pass).unwrap();
            dot(&trace.classified.logits, &by_logits) + dot(&trace.hidden, &by_hidden)
        };
        agrees(&config["model_type"].to_string(), &model.embed(&TOKENS).unwrap(), &gradient, loss);
    }
}

#[test]
fn a_linear_layer_s_gradients_are_the_slopes_of_its_forward_for_input_weight_bias_and_both_factors() {
    // Random factors of a layer of 16 numbers in and 16 out.
    let adapter = random_adapter(&random_llama(false), 3, 2);
    let bound = BoundAdapter::bind(&adapter, random_llama(false).linear_modules()).unwrap();
    let factors = bound.factors(ModuleIdx(0)).unwrap().clone();
    let adapters = [bound];
    let rows = Rows::packed([6]).in_one_group();
    for stored in [Stored::OutIn, Stored::InOut] {
        let mut params = Params::default();
        let weight = params.insert("weight", random((16, 16))).unwrap();
        let bias = params.insert("bias", random(16)).unwrap();
        let linear = Linear { module: Some(ModuleIdx(0)), weight, stored, bias: Some(bias) };
        let (x, dy) = (random((6, 16)), random((6, 16)));
        let output = |x: &Tensor, w: &Tensor, bias: &Tensor, a: &Tensor, b: &Tensor| {
            let base = match stored {
                Stored::OutIn => x.matmul(&w.t().unwrap()),
                Stored::InOut => x.matmul(w),
            };
            let update = matmul_nt(&matmul_nt(x, a).unwrap(), b).unwrap();
            let sum = (base.unwrap().broadcast_add(bias).unwrap() + (update * factors.scaling).unwrap()).unwrap();
            dot(&sum, &dy)
        };
        let (w, bias_values, a, b) = (params.get(weight), params.get(bias), &factors.a, &factors.b);
        let pass = Pass { params: &params, rows: &rows, adapters: &adapters, cache: None };
        let (y, trace) = linear.forward(&x, pass).unwrap();
        assert!((dot(&y, &dy) - output(&x, w, bias_values, a, b)).abs() < 1e-3);
        let mut of_factors = Gradients::of_adapters(1, 1);
        let dx = linear.backward(&x, &trace, &dy, pass, &mut of_factors).unwrap();
        agrees("input", &x, &dx, |x| output(x, w, bias_values, a, b));
        let both = ([&linear, &linear], [&trace, &trace], [&dy, &dy]);
        let twice = Linear::backward_each(both.0, &x, both.1, both.2, pass, &mut Gradients::of_inputs()).unwrap();
        assert!(
            relative_distance(&numbers(&twice), &numbers(&(&dx * 2.0).unwrap())) < 1e-6,
            "two readers of one input"
        );
        let of_factors = of_factors.variant(0)[0].clone().unwrap();
        agrees("factor a", a, &of_factors.a, |a| output(&x, w, bias_values, a, b));
        agrees("factor b", b, &of_factors.b, |b| output(&x, w, bias_values, a, b));
        let mut of_weights = Gradients::of_weights(&params);
        linear.backward(&x, &trace, &dy, pass, &mut of_weights).unwrap();
        agrees("weight", w, of_weights.weight(weight).unwrap(), |w| output(&x, w, bias_values, a, b));
        agrees("bias", bias_values, of_weights.weight(bias).unwrap(), |bias| output(&x, w, bias, a, b));
    }
}

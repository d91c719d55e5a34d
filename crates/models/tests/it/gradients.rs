//! Every backward against central finite differences of its forward, along random directions.

use antigen_models::kernels::*;
use antigen_models::{Device, Tensor};

use crate::support::numbers;

fn random(shape: (usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum()
}

/// `<gradient, direction>` against `(f(x + h u) - f(x - h u)) / 2h`, both in float64 sums over float32 kernels.
fn agrees(what: &str, x: &Tensor, gradient: &Tensor, f: impl Fn(&Tensor) -> f64) {
    for _ in 0..4 {
        let direction = Tensor::randn(0f32, 1.0, x.shape(), &Device::Cpu).unwrap();
        let h = 4e-3;
        let moved = |sign: f64| f(&(x + (&direction * (sign * h)).unwrap()).unwrap());
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * h);
        let expected = dot(gradient, &direction);
        let scale = expected.abs().max(dot(gradient, gradient).sqrt());
        assert!((slope - expected).abs() < 2e-3 * scale, "{what}: slope {slope}, gradient {expected}");
    }
}

#[test]
fn rms_norm_backward_is_the_slope_of_its_forward() {
    let (x, dy) = (random((5, 24)), random((5, 24)));
    let weight = Tensor::randn(1f32, 0.3, 24, &Device::Cpu).unwrap();
    let epsilon = 1e-5;
    agrees("x", &x, &rms_norm_backward(&x, &weight, &dy, epsilon).unwrap(), |x| dot(&rms_norm(x, &weight, epsilon).unwrap(), &dy));
    agrees("weight", &weight, &rms_norm_weight_gradient(&x, &dy, epsilon).unwrap(), |w| dot(&rms_norm(&x, w, epsilon).unwrap(), &dy));
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

#[test]
fn attention_backward_is_the_slope_of_its_forward_over_packed_sequences_longer_than_a_tile() {
    let lengths = [3usize, 1, 70];
    let t: usize = lengths.iter().sum();
    let mut spans = Vec::new();
    lengths.iter().fold(0, |start, n| {
        spans.push(Span::causal(start..start + n));
        start + n
    });
    let (q, k, v, dy) = (random((t, 4 * 6)), random((t, 2 * 6)), random((t, 2 * 6)), random((t, 4 * 6)));
    let (dq, dk, dv) = attention_backward((&q, &k, &v), &dy, &spans, 6).unwrap();
    agrees("queries", &q, &dq, |q| dot(&attention(q, &k, &v, &spans, 6).unwrap(), &dy));
    agrees("keys", &k, &dk, |k| dot(&attention(&q, k, &v, &spans, 6).unwrap(), &dy));
    agrees("values", &v, &dv, |v| dot(&attention(&q, &k, v, &spans, 6).unwrap(), &dy));
}

#[test]
fn a_packed_sequence_never_sees_its_neighbour_nor_its_own_future() {
    let (q, k, v) = (random((8, 8)), random((8, 8)), random((8, 8)));
    let spans = [Span::causal(0..5), Span::causal(5..8)];
    let before = attention(&q, &k, &v, &spans, 4).unwrap();
    let other = Tensor::cat(&[v.narrow(0, 0, 4).unwrap(), random((4, 8))], 0).unwrap();
    let after = attention(&q, &k, &other, &spans, 4).unwrap();
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

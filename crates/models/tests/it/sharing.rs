//! Examples that share a prefix give what they give apart.

use antigen_models::layers::{Gradients, Pass};
use antigen_models::{BoundAdapter, Example, GenerateOptions, LoraAdapter, Model, Packed, PeftConfig, generate_greedy};

use super::support::{numbers, random_llama, relative_distance};

/// Two kinds of rows with a preamble each, which begin alike themselves; one row like no other, one longer
/// than a prefix.
fn examples() -> Vec<Example> {
    let alike = [1, 2, 3];
    let preambles = [[4, 5, 6, 7, 8, 9, 10], [11, 5, 6, 7, 8, 9, 12]];
    let row = |kind: usize, rest: &[u32], response: usize| {
        let tokens = [&alike[..], &preambles[kind], rest].concat();
        Example { response_start: tokens.len() - response, tokens }
    };
    vec![
        row(0, &[13, 14, 15, 16], 2),
        row(1, &[13, 14, 15], 1),
        Example { tokens: vec![20, 21, 22, 3, 4], response_start: 1 },
        row(0, &[17, 18, 19, 20, 21, 22], 3),
        row(1, &[2, 1, 2, 1, 2], 4),
        row(1, &[2, 1, 3, 1], 1),
        row(0, &[13, 14, 15, 16], 3),
    ]
}

/// Two variants' packs behind one another, as training arranges them.
fn two_groups(pack: impl Fn(&[Example]) -> Packed) -> Packed {
    let mut packed = Packed::default();
    packed.append_group(pack(&examples()));
    packed.append_group(pack(&examples()[1..]));
    packed
}

fn adapter(model: &Model, phase: f32) -> BoundAdapter {
    let mut count = 0;
    let config = PeftConfig::new(3, 6, &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"], "");
    let mut adapter = LoraAdapter::fresh(config, model.config(), &mut || {
        count += 1;
        (phase + count as f32).sin()
    })
    .unwrap();
    for factors in adapter.factors.values_mut() {
        factors.b = ((&factors.b + 0.1).unwrap() * f64::from(phase)).unwrap();
    }
    BoundAdapter::bind(&adapter, model.linear_modules()).unwrap()
}

#[test]
fn prompts_that_begin_alike_are_continued_as_each_of_them_alone() {
    let model = random_llama(true);
    let prompts: Vec<Vec<u32>> = examples().into_iter().map(|e| e.tokens).collect();
    let options = GenerateOptions { max_new_tokens: 6, stop: vec![], batch_rows: 8 };
    let together = generate_greedy(&model, None, &prompts, &options).unwrap();
    for (prompt, together) in prompts.iter().zip(together) {
        let alone = generate_greedy(&model, None, std::slice::from_ref(prompt), &options).unwrap();
        assert_eq!(together, alone[0]);
    }
}

#[test]
fn a_shared_prefix_is_packed_once() {
    let (apart, shared) = (Packed::new(&examples(), 1.0), Packed::sharing_prefixes(&examples(), 1.0));
    assert_eq!(
        apart.tokens.len() - shared.tokens.len(),
        2 * 10 + 2 * 10,
        "two preambles of ten tokens, three rows each"
    );
    assert_eq!(apart.targets.len(), shared.targets.len());
    let lonely = [examples()[0].clone(), examples()[2].clone()];
    assert!(Packed::sharing_prefixes(&lonely, 1.0).rows.key_rows.is_none(), "nothing to share");
}

#[test]
fn losses_and_gradients_with_shared_prefixes_agree_with_those_apart() {
    let model = random_llama(true);
    let adapters = [adapter(&model, 0.5), adapter(&model, -0.7)];
    let run = |packed: &Packed, mut gradients: Gradients| {
        let pass = Pass { params: model.params(), rows: &packed.rows, adapters: &adapters, cache: None };
        let (losses, _) = model.loss_and_gradients(&packed.tokens, &packed.targets, pass, &mut gradients).unwrap();
        let losses: Vec<f64> = losses.into_iter().map(f64::from).collect();
        (losses, gradients)
    };
    let apart = two_groups(|examples| Packed::new(examples, 0.25));
    let shared = two_groups(|examples| Packed::sharing_prefixes(examples, 0.25));
    let modules = model.linear_modules().len();
    let (apart_losses, apart_factors) = run(&apart, Gradients::of_adapters(2, modules));
    let (shared_losses, shared_factors) = run(&shared, Gradients::of_adapters(2, modules));
    assert!(relative_distance(&shared_losses, &apart_losses) < 1e-6);
    for variant in 0..2 {
        for (module, shared) in model.linear_modules().iter().zip(shared_factors.variant(variant)) {
            let apart =
                &apart_factors.variant(variant)[model.linear_modules().iter().position(|m| m == module).unwrap()];
            let (Some(apart), Some(shared)) = (apart, shared) else { continue };
            for (apart, shared) in [(&apart.a, &shared.a), (&apart.b, &shared.b)] {
                let distance = relative_distance(&numbers(shared), &numbers(apart));
                assert!(distance < 1e-6, "variant {variant}, {}: {distance:.1e}", module.name);
            }
        }
    }
    let (_, apart_weights) = run(&apart, Gradients::of_weights(model.params()));
    let (_, shared_weights) = run(&shared, Gradients::of_weights(model.params()));
    for (id, name, _) in model.params().iter() {
        let of = |gradients: &Gradients| numbers(gradients.weight(id).unwrap());
        let distance = relative_distance(&of(&shared_weights), &of(&apart_weights));
        assert!(distance < 1e-6, "{name}: {distance:.1e}");
    }
}

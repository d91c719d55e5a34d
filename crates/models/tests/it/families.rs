//! What must hold for every family alike: decoding through the cache, adapters side by side, adapters as files.

use std::ops::Range;

use antigen_models::layers::{Gradients, Pass, Rows, Target};
use antigen_models::taps::NoTap;
use antigen_models::{BoundAdapter, GenerateOptions, LoraAdapter, Model, generate_greedy, load_adapter, save_adapter};
use serde_json::Value;

use super::support::{numbers, random_adapter, random_model, relative_distance, tiny_decoders};

fn name(config: &Value) -> &str {
    config["model_type"].as_str().unwrap()
}

/// The continuation of a prompt, with the whole sequence run again for every token.
fn continue_without_cache(model: &Model, adapter: &BoundAdapter, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut sequence = prompt.to_vec();
    for _ in 0..tokens {
        let rows = Rows::packed([sequence.len()]).in_one_group();
        let pass = Pass { params: model.params(), rows: &rows, adapters: std::slice::from_ref(adapter), cache: None };
        let hidden = model.forward(model.embed(&sequence).unwrap(), pass, &mut NoTap).unwrap();
        let logits = numbers(&model.logits(&hidden, &[sequence.len() as u32 - 1], pass).unwrap());
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        sequence.push(best as u32);
    }
    sequence.split_off(prompt.len())
}

#[test]
fn every_decoder_continues_through_its_cache_as_it_would_without_one() {
    for config in tiny_decoders() {
        let model = random_model(&config);
        let adapter = random_adapter(&model, 2, 3);
        let bound = BoundAdapter::bind(&adapter, model.linear_modules()).unwrap();
        let prompts = [vec![3, 5, 7, 11, 13, 2, 1], vec![4], vec![9, 9, 20, 8]];
        let options = GenerateOptions { max_new_tokens: 8, stop: vec![], batch_rows: 3 };
        let found = generate_greedy(&model, Some(&adapter), &prompts, &options).unwrap();
        for (prompt, found) in prompts.iter().zip(found) {
            assert_eq!(found, continue_without_cache(&model, &bound, prompt, 8), "{}", name(&config));
        }
    }
}

fn targets(rows: &[u32]) -> Vec<Target> {
    rows.iter().map(|&row| Target { row, token: row % 7 + 1, weight: 0.5 }).collect()
}

#[test]
fn in_every_decoder_two_adapters_of_one_pass_get_the_gradients_that_each_would_get_alone() {
    for config in tiny_decoders() {
        let model = random_model(&config);
        let modules = model.linear_modules().len();
        let both: Vec<BoundAdapter> = [(2, 11), (4, 12)]
            .map(|(rank, seed)| {
                BoundAdapter::bind(&random_adapter(&model, rank, seed), model.linear_modules()).unwrap()
            })
            .into();
        let run = |tokens: &[u32], targets: &[Target], groups: &[Range<usize>], adapters: &[BoundAdapter]| {
            let mut rows = Rows::packed(groups.iter().map(Range::len));
            rows.groups = groups.to_vec();
            let mut gradients = Gradients::of_adapters(adapters.len(), modules);
            let pass = Pass { params: model.params(), rows: &rows, adapters, cache: None };
            model.loss_and_gradients(tokens, targets, pass, &mut gradients).unwrap();
            gradients
        };
        let sequences = [[3u32, 5, 7, 11, 13], [13, 2, 1, 22, 9]];
        let (first, second) = (targets(&[1, 3]), targets(&[0, 2, 4]));
        let behind = second.iter().map(|target| Target { row: target.row + 5, ..*target });
        let all: Vec<_> = first.iter().copied().chain(behind).collect();
        let together = run(&sequences.concat(), &all, &[0..5, 5..10], &both);
        for (variant, own) in [first, second].iter().enumerate() {
            let alone = run(&sequences[variant], own, std::slice::from_ref(&(0..5)), &both[variant..=variant]);
            for (together, alone) in together.variant(variant).iter().zip(alone.variant(0)) {
                let (together, alone) = (together.as_ref().unwrap(), alone.as_ref().unwrap());
                for (one, other) in [(&together.a, &alone.a), (&together.b, &alone.b)] {
                    assert!(relative_distance(&numbers(one), &numbers(other)) < 1e-5, "{}", name(&config));
                }
            }
        }
    }
}

fn same_factors(one: &LoraAdapter, other: &LoraAdapter) -> bool {
    let values = |adapter: &LoraAdapter| -> Vec<(String, Vec<f64>, Vec<f64>)> {
        adapter.factors.iter().map(|(name, f)| (name.clone(), numbers(&f.a), numbers(&f.b))).collect()
    };
    values(one) == values(other)
}

#[test]
fn an_adapter_of_every_decoder_comes_back_from_its_files_byte_for_byte() {
    for config in tiny_decoders() {
        let model = random_model(&config);
        let adapter = random_adapter(&model, 2, 4);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        save_adapter(&adapter, one.path()).unwrap();
        let loaded = load_adapter(one.path(), model.config(), &super::device()).unwrap();
        assert!(same_factors(&adapter, &loaded), "{}", name(&config));
        save_adapter(&loaded, two.path()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [before, after] = [&one, &two].map(|dir| std::fs::read(dir.path().join(file)).unwrap());
            assert!(before == after, "{file} of {}", name(&config));
        }
    }
}

#[test]
fn every_weight_that_a_configuration_names_is_trained() {
    for config in tiny_decoders() {
        let model = random_model(&config);
        let rows = Rows::packed([9]);
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let mut gradients = Gradients::of_weights(model.params());
        let tokens = [3u32, 5, 7, 11, 13, 2, 1, 22, 9];
        model.loss_and_gradients(&tokens, &targets(&[2, 5, 7]), pass, &mut gradients).unwrap();
        let shapes = model.config().tensor_shapes();
        assert_eq!(shapes.len(), model.params().len());
        for ((id, tensor, weight), (expected, shape)) in model.params().iter().zip(&shapes) {
            assert_eq!((tensor, weight.dims()), (expected.as_str(), shape.as_slice()));
            let gradient = gradients.weight(id).unwrap_or_else(|| panic!("no gradient of {tensor}"));
            assert_eq!(gradient.dims(), weight.dims(), "{tensor}");
        }
        for module in model.linear_modules() {
            assert!(model.params().find(&format!("{}.weight", module.name)).is_some());
        }
    }
}

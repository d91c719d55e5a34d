//! Sampled decoding: settings, seeds, and the tail that it never draws from.

use std::collections::BTreeSet;

use antigen_models::{
    FamilyConfig, GenerateOptions, Model, ModelError, Sampling, Tensor, build_fresh_model, generate_greedy,
    generate_sampled,
};
use serde_json::json;

use super::support::{random_adapter, random_llama};

const SAMPLING: Sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 7 };

/// Prompts of several lengths, of which some begin alike and two are equal.
fn prompts() -> Vec<Vec<u32>> {
    let preamble = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
    let rest: [&[u32]; 4] = [&[1, 2], &[3], &[1, 2, 3], &[1, 2]];
    let mut prompts: Vec<Vec<u32>> = rest.iter().map(|rest| [&preamble[..], rest].concat()).collect();
    prompts.push(vec![17]);
    prompts.push(vec![20, 21, 22]);
    prompts
}

fn options(batch_rows: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: 12, stop: vec![2], batch_rows }
}

#[test]
fn a_seed_gives_the_same_answers_in_batches_of_any_size() {
    let model = random_llama(true);
    let adapter = random_adapter(&model, 2, 3);
    for adapter in [None, Some(&adapter)] {
        let answers = |rows, sampling: &Sampling| {
            generate_sampled(&model, adapter, &prompts(), &options(rows), sampling).unwrap()
        };
        let first = answers(8, &SAMPLING);
        for rows in [1, 2, 3, 5] {
            assert_eq!(answers(rows, &SAMPLING), first, "{rows} at a time");
        }
        assert_ne!(answers(8, &Sampling { seed: 8, ..SAMPLING }), first);
    }
}

#[test]
fn a_prompt_is_answered_alike_beside_other_neighbours_and_equal_prompts_each_for_itself() {
    let model = random_llama(true);
    let sampled = |prompts: &[Vec<u32>]| generate_sampled(&model, None, prompts, &options(4), &SAMPLING).unwrap();
    let all = sampled(&prompts());
    assert_ne!(all[0], all[3], "equal prompts draw from generators of their own");
    let mut others = prompts();
    others[1] = vec![19; 5];
    others.truncate(4);
    let some = sampled(&others);
    assert_eq!((&some[0], &some[2], &some[3]), (&all[0], &all[2], &all[3]));
}

#[test]
fn near_temperature_zero_the_likeliest_token_is_drawn() {
    let model = random_llama(false);
    for temperature in [1e-3, 1e-9] {
        let sampling = Sampling { temperature, top_p: 1.0, seed: 1 };
        let sampled = generate_sampled(&model, None, &prompts(), &options(8), &sampling).unwrap();
        assert_eq!(sampled, generate_greedy(&model, None, &prompts(), &options(8)).unwrap(), "{temperature}");
    }
}

/// A Llama that gives the same logits everywhere, whatever it reads.
fn model_of_logits(logits: &[f32]) -> Model {
    let config = json!({
        "model_type": "llama", "vocab_size": logits.len(), "hidden_size": 4, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 0.0,
    });
    build_fresh_model(FamilyConfig::from_json(&config).unwrap(), &super::device(), |name, shape| {
        let device = &super::device();
        Ok(match name {
            "model.embed_tokens.weight" | "model.norm.weight" => Tensor::ones(shape, candle_core::DType::F32, device)?,
            // Hidden states are rows of ones: each of the four columns brings a quarter of the logit.
            "lm_head.weight" => {
                (Tensor::new(logits, device)?.unsqueeze(1)?.broadcast_as(shape)? / 4.0)?.contiguous()?
            }
            _ => Tensor::zeros(shape, candle_core::DType::F32, device)?,
        })
    })
    .unwrap()
}

#[test]
fn top_p_cuts_off_the_tail() {
    let shares = [0.05f32, 0.4, 0.1, 0.25, 0.2];
    let model = model_of_logits(&shares.map(f32::ln));
    let options = GenerateOptions { max_new_tokens: 400, stop: vec![], batch_rows: 1 };
    let drawn = |top_p: f64| {
        let sampling = Sampling { temperature: 1.0, top_p, seed: 5 };
        generate_sampled(&model, None, &[vec![0]], &options, &sampling).unwrap().remove(0)
    };
    let kinds = |top_p: f64| drawn(top_p).into_iter().collect::<BTreeSet<u32>>().into_iter().collect::<Vec<_>>();
    assert_eq!(kinds(0.3), [1]);
    assert_eq!(kinds(0.6), [1, 3]);
    assert_eq!(kinds(0.8), [1, 3, 4]);
    assert_eq!(kinds(1.0), [0, 1, 2, 3, 4]);
    // 400 draws of share 0.4: their standard deviation is 10.
    let likeliest = drawn(1.0).into_iter().filter(|&token| token == 1).count();
    assert!((120..200).contains(&likeliest), "{likeliest} of 400");
}

#[test]
fn settings_out_of_range_are_refused() {
    let model = random_llama(true);
    for (temperature, top_p) in
        [(0.0, 0.9), (-1.0, 0.9), (f64::NAN, 0.9), (f64::INFINITY, 0.9), (1.0, 0.0), (1.0, 1.5), (1.0, f64::NAN)]
    {
        let sampling = Sampling { temperature, top_p, seed: 0 };
        let refused = generate_sampled(&model, None, &prompts(), &options(8), &sampling);
        assert!(matches!(refused, Err(ModelError::Unsupported { .. })), "{temperature} {top_p}");
    }
}

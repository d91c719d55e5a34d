//! Logits and gradients against another implementation in the same language: candle's models, which read what
//! this crate writes, and candle's autograd over layers of `candle-nn`.

use std::collections::BTreeMap;

use antigen_models::checkpoint::save_checkpoint;
use antigen_models::layers::{Gradients, Pass, Rows, Target};
use antigen_models::taps::NoTap;
use antigen_models::{Model, Tensor};
use candle_core::{D, DType, Device, Module, Var};
use candle_nn::rotary_emb::rope_slow;
use candle_nn::{RmsNorm, VarBuilder};
use candle_transformers::models::{gemma, llama, mistral, phi3, qwen2};
use candle_transformers::utils::repeat_kv;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::support::{numbers, random_model, relative_distance};

/// Relative distance of the logits behind three blocks in float32: 2e-6 was measured, where a weight's own
/// relative error grows fivefold on its way.
const TOLERANCE: f64 = 5e-6;
/// The same of the gradients: 1e-6 was measured.
const OF_GRADIENTS: f64 = 5e-6;

/// Tokens of the longest prompt; the others are its beginnings.
const TOKENS: [u32; 17] = [3, 19, 7, 7, 0, 22, 11, 4, 16, 9, 1, 20, 13, 5, 18, 2, 21];
/// Lengths of the prompts.
const LENGTHS: [usize; 5] = [1, 2, 5, 9, 17];

/// The families that candle has too, each as a configuration of three blocks that both read: d 16, vocabulary
/// 23, 4 query heads, 2 key-value heads.
fn configurations() -> Vec<Value> {
    let with = |particular: Value| {
        let mut config = json!({
            "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu",
        });
        config.as_object_mut().unwrap().extend(particular.as_object().unwrap().clone());
        config
    };
    vec![
        with(json!({ "model_type": "llama" })),
        with(json!({
            "model_type": "llama", "tie_word_embeddings": true,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        })),
        with(json!({
            "model_type": "qwen2", "tie_word_embeddings": true,
            "use_sliding_window": false, "sliding_window": 32, "max_window_layers": 3,
        })),
        with(json!({ "model_type": "mistral", "sliding_window": 4 })),
        with(json!({
            "model_type": "gemma", "head_dim": 6, "hidden_act": "gelu_pytorch_tanh", "attention_bias": false,
        })),
        with(json!({ "model_type": "phi3", "partial_rotary_factor": 0.5, "tie_word_embeddings": false })),
    ]
}

/// Logits of candle's model of this configuration behind the last of the tokens, `[v]`.
type Reference = Box<dyn FnMut(&[u32]) -> candle_core::Result<Tensor>>;

/// Candle's model of this configuration, with the weights of a file that this crate wrote.
fn reference(config: &Value, weights: VarBuilder<'_>) -> Reference {
    fn read<T: DeserializeOwned>(config: &Value) -> T {
        serde_json::from_value(config.clone()).unwrap()
    }
    let input = |tokens: &[u32]| Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0);
    match config["model_type"].as_str().unwrap() {
        "llama" => {
            let config = read::<llama::LlamaConfig>(config).into_config(false);
            let model = llama::Llama::load(weights, &config).unwrap();
            Box::new(move |tokens| {
                let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
                model.forward(&input(tokens)?, 0, &mut cache)
            })
        }
        "qwen2" => {
            let mut model = qwen2::ModelForCausalLM::new(&read(config), weights).unwrap();
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&input(tokens)?, 0)
            })
        }
        "mistral" => {
            let mut config = read::<mistral::Config>(config);
            // A row sees `sliding_window` rows with itself, in candle beside itself.
            config.sliding_window = config.sliding_window.map(|window| window - 1);
            let mut model = mistral::Model::new(&config, weights).unwrap();
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&input(tokens)?, 0)
            })
        }
        "gemma" => {
            let mut model = gemma::Model::new(false, &read(config), weights).unwrap();
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&input(tokens)?, 0)
            })
        }
        "phi3" => {
            let mut model = phi3::Model::new(&read(config), weights).unwrap();
            Box::new(move |tokens| {
                model.clear_kv_cache();
                model.forward(&input(tokens)?, 0)
            })
        }
        other => panic!("no reference for {other}"),
    }
}

/// The reference for this model, through the files that this crate writes.
fn reference_of(model: &Model) -> Reference {
    let dir = tempfile::tempdir().unwrap();
    let tensors = model.params().iter().map(|(_, name, tensor)| (name.to_owned(), tensor.clone()));
    save_checkpoint(dir.path(), model.config().json(), tensors, u64::MAX).unwrap();
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    reference(model.config().json(), weights)
}

/// Logits behind the last token of each prompt, all prompts in one pass.
fn own_logits(model: &Model) -> Vec<Vec<f64>> {
    let rows = Rows::packed(LENGTHS);
    let tokens: Vec<u32> = LENGTHS.iter().flat_map(|&length| &TOKENS[..length]).copied().collect();
    let last: Vec<u32> = rows.spans.iter().map(|span| span.queries.end as u32 - 1).collect();
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    let hidden = model.forward(model.embed(&tokens).unwrap(), pass, &mut NoTap).unwrap();
    let logits = model.logits(&hidden, &last, pass).unwrap();
    (0..LENGTHS.len()).map(|row| numbers(&logits.get(row).unwrap())).collect()
}

fn reference_logits(reference: &mut Reference) -> Vec<Vec<f64>> {
    LENGTHS.iter().map(|&length| numbers(&reference(&TOKENS[..length]).unwrap())).collect()
}

#[test]
fn logits_are_those_of_another_implementation() {
    for config in configurations() {
        let name = &config["model_type"];
        let model = random_model(&config);
        let expected = reference_logits(&mut reference_of(&model));
        for ((found, expected), length) in own_logits(&model).iter().zip(&expected).zip(LENGTHS) {
            let distance = relative_distance(found, expected);
            println!("{name} after {length} tokens: {distance:.1e}");
            assert!(distance < TOLERANCE, "{name} after {length} tokens: {distance:e}");
        }
    }
}

#[test]
fn any_tensor_made_a_hundredth_larger_is_seen() {
    for config in configurations() {
        let name = &config["model_type"];
        let mut model = random_model(&config);
        let expected = reference_logits(&mut reference_of(&model));
        let weights: Vec<_> = model.params().iter().map(|(id, name, w)| (id, name.to_owned(), w.clone())).collect();
        for (id, tensor, weight) in weights {
            model.params_mut().set(id, (&weight * 1.01).unwrap());
            let found = own_logits(&model);
            let distance = relative_distance(&found.concat(), &expected.concat());
            assert!(distance > 10.0 * TOLERANCE, "{tensor} of {name}: {distance:e}");
            model.params_mut().set(id, weight);
        }
    }
}

/// Logits of a Llama, `[t, v]`, from operations that candle has a backward for.
fn differentiable_llama(
    weights: &BTreeMap<String, Var>,
    config: &llama::Config,
    tokens: &[u32],
) -> candle_core::Result<Tensor> {
    let device = &Device::Cpu;
    let t = tokens.len();
    let (heads, sharing) = (config.num_attention_heads, config.num_attention_heads / config.num_key_value_heads);
    let width = config.hidden_size / heads;
    let linear = |x: &Tensor, name: String| x.matmul(&weights[&format!("{name}.weight")].t()?);
    let norm = |x: &Tensor, name: String| {
        RmsNorm::new(weights[&format!("{name}.weight")].as_tensor().clone(), config.rms_norm_eps).forward_diff(x)
    };
    let frequencies: Vec<f32> =
        (0..width).step_by(2).map(|i| config.rope_theta.powf(-(i as f32) / width as f32)).collect();
    let frequencies = Tensor::new(frequencies, device)?.unsqueeze(0)?;
    let angles = Tensor::arange(0f32, t as f32, device)?.unsqueeze(1)?.matmul(&frequencies)?;
    let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (t, t), device)?;
    let split = |x: Tensor| x.reshape((1, t, x.dim(1)? / width, width))?.transpose(1, 2)?.contiguous();
    let mut x = weights["model.embed_tokens.weight"].embedding(&Tensor::new(tokens, device)?)?;
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let normed = norm(&x, name("input_layernorm"))?;
        let turned = |part: &str| rope_slow(&split(linear(&normed, name(part))?)?, &angles.cos()?, &angles.sin()?);
        let query = turned("self_attn.q_proj")?;
        let key = repeat_kv(turned("self_attn.k_proj")?, sharing)?;
        let value = repeat_kv(split(linear(&normed, name("self_attn.v_proj"))?)?, sharing)?;
        let scores = (query.matmul(&key.t()?)? / (width as f64).sqrt())?.broadcast_add(&mask)?;
        let read = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        let read = read.transpose(1, 2)?.reshape((t, heads * width))?;
        x = (x + linear(&read, name("self_attn.o_proj"))?)?;
        let normed = norm(&x, name("post_attention_layernorm"))?;
        let gate = candle_nn::Activation::Silu.forward(&linear(&normed, name("mlp.gate_proj"))?)?;
        let inner = (gate * linear(&normed, name("mlp.up_proj"))?)?;
        x = (x + linear(&inner, name("mlp.down_proj"))?)?;
    }
    linear(&norm(&x, "model.norm".into())?, "lm_head".into())
}

#[test]
fn the_gradient_of_every_weight_is_that_of_candles_autograd() {
    let config = &configurations()[0];
    let model = random_model(config);
    let (tokens, next) = (&TOKENS[..16], &TOKENS[1..]);

    let vars = model.params().iter().map(|(_, name, w)| (name.to_owned(), Var::from_tensor(w).unwrap()));
    let vars: BTreeMap<String, Var> = vars.collect();
    let settings: llama::LlamaConfig = serde_json::from_value(config.clone()).unwrap();
    let logits = differentiable_llama(&vars, &settings.into_config(false), tokens).unwrap();
    let loss = candle_nn::loss::cross_entropy(&logits, &Tensor::new(next, &Device::Cpu).unwrap()).unwrap();
    let expected = loss.backward().unwrap();

    let rows = Rows::packed([tokens.len()]);
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    let weight = 1.0 / next.len() as f32;
    let targets: Vec<_> = next.iter().zip(0..).map(|(&token, row)| Target { row, token, weight }).collect();
    let mut gradients = Gradients::of_weights(model.params());
    let (losses, _) = model.loss_and_gradients(tokens, &targets, pass, &mut gradients).unwrap();

    let mean = losses.iter().sum::<f32>() * weight;
    let expected_loss = loss.to_scalar::<f32>().unwrap();
    assert!((mean - expected_loss).abs() < 1e-5 * expected_loss, "loss {mean} against {expected_loss}");
    for (id, name, _) in model.params().iter() {
        let expected = expected.get(&vars[name]).unwrap_or_else(|| panic!("candle has no gradient of {name}"));
        let found = gradients.weight(id).unwrap_or_else(|| panic!("no gradient of {name}"));
        let distance = relative_distance(&numbers(found), &numbers(expected));
        println!("{name}: {distance:.1e}");
        assert!(distance < OF_GRADIENTS, "{name}: {distance:e}");
    }
}

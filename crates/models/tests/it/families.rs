//! Properties of every family alike: decoding through the cache, adapters side by side, adapters as files.

use std::ops::Range;

use antigen_models::checkpoint::{save_checkpoint, write_tensor_file};
use antigen_models::layers::{Gradients, LabelTarget, ModuleIdx, Pass, Rows, Target};
use antigen_models::taps::{Attention, NoTap, Tap};
use antigen_models::{
    BoundAdapter, Device, FamilyConfig, GenerateOptions, LoraAdapter, Model, ModelError, ModuleKind, Stored, Tensor,
    generate_greedy, load_adapter, load_model, save_adapter,
};
use serde_json::{Value, json};

use super::support::{numbers, random_adapter, random_model, relative_distance, tiny_classifiers, tiny_decoders};

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

/// One training pass whose targets depend on each sequence alone: tokens of a language model, labels of a
/// classifier.
fn train(model: &Model, tokens: &[u32], rows: &Rows, adapters: &[BoundAdapter], gradients: &mut Gradients) {
    let pass = Pass { params: model.params(), rows, adapters, cache: None };
    let starts = rows.spans.iter().map(|span| span.queries.start);
    if model.config().sizes().labels.is_some() {
        let targets: Vec<_> = starts.map(|row| LabelTarget { label: tokens[row] % 3, weight: 0.5 }).collect();
        model.label_loss_and_gradients(tokens, &targets, pass, gradients).unwrap();
    } else {
        let targets: Vec<_> = starts
            .flat_map(|start| [start + 1, start + 3])
            .map(|row| Target { row: row as u32, token: tokens[row] % 7 + 1, weight: 0.5 })
            .collect();
        model.loss_and_gradients(tokens, &targets, pass, gradients).unwrap();
    }
}

fn tiny_models() -> impl Iterator<Item = (String, Model)> {
    let configs = tiny_decoders().into_iter().chain(tiny_classifiers());
    configs.map(|config| (format!("{} {}", config["model_type"], config["architectures"]), random_model(&config)))
}

#[test]
fn in_every_family_two_adapters_of_one_pass_get_the_gradients_that_each_would_get_alone() {
    for (name, model) in tiny_models() {
        let both: Vec<BoundAdapter> = [(2, 11), (4, 12)]
            .map(|(rank, seed)| {
                BoundAdapter::bind(&random_adapter(&model, rank, seed), model.linear_modules()).unwrap()
            })
            .into();
        let run = |tokens: &[u32], groups: &[Range<usize>], adapters: &[BoundAdapter]| {
            let mut rows = Rows::packed(groups.iter().map(Range::len));
            rows.groups = groups.to_vec();
            let mut gradients = Gradients::of_adapters(adapters.len(), model.linear_modules().len());
            train(&model, tokens, &rows, adapters, &mut gradients);
            gradients
        };
        let sequences = [[3u32, 5, 7, 11, 13], [13, 2, 1, 22, 9]];
        let together = run(&sequences.concat(), &[0..5, 5..10], &both);
        for (variant, adapter) in both.iter().enumerate() {
            let alone = run(&sequences[variant], std::slice::from_ref(&(0..5)), std::slice::from_ref(adapter));
            for (together, alone) in together.variant(variant).iter().zip(alone.variant(0)) {
                let (together, alone) = (together.as_ref().unwrap(), alone.as_ref().unwrap());
                for (one, other) in [(&together.a, &alone.a), (&together.b, &alone.b)] {
                    assert!(relative_distance(&numbers(one), &numbers(other)) < 1e-5, "{name}");
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
fn an_adapter_of_every_family_comes_back_from_its_files_byte_for_byte() {
    for (name, model) in tiny_models() {
        let adapter = random_adapter(&model, 2, 4);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        save_adapter(&adapter, one.path()).unwrap();
        let loaded = load_adapter(one.path(), model.config(), &super::device()).unwrap();
        assert!(same_factors(&adapter, &loaded), "{name}");
        save_adapter(&loaded, two.path()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [before, after] = [&one, &two].map(|dir| std::fs::read(dir.path().join(file)).unwrap());
            assert!(before == after, "{file} of {name}");
        }
    }
}

#[test]
fn every_weight_that_a_configuration_names_is_trained_biases_among_them() {
    for (name, model) in tiny_models() {
        let mut gradients = Gradients::of_weights(model.params());
        train(&model, &[3, 5, 7, 11, 13, 2, 1, 22, 9], &Rows::packed([9]), &[], &mut gradients);
        let shapes = model.config().tensor_shapes();
        assert_eq!(shapes.len(), model.params().len());
        for ((id, tensor, weight), (expected, shape)) in model.params().iter().zip(&shapes) {
            assert_eq!((tensor, weight.dims()), (expected.as_str(), shape.as_slice()));
            let gradient = gradients.weight(id).unwrap_or_else(|| panic!("no gradient of {tensor} in {name}"));
            assert_eq!(gradient.dims(), weight.dims(), "{tensor}");
            // A key's bias moves every score of a query alike, which softmax does not see.
            let unseen = tensor.contains("k_proj.bias") || tensor.contains("key.bias") || tensor.contains("k_lin.bias");
            let rotated = model.config().json()["model_type"] == "qwen2";
            let moved = numbers(gradient).iter().any(|g| g.abs() > 1e-6);
            assert!(moved || (unseen && !rotated), "{tensor} in {name}");
        }
        for module in model.linear_modules() {
            let (rows, columns) = model.weight_of(module).dims2().unwrap();
            let extents = match module.stored {
                Stored::OutIn => (rows, columns),
                Stored::InOut => (columns, rows),
            };
            assert_eq!(extents, (module.out_features, module.in_features), "{}", module.name);
        }
    }
}

#[test]
fn a_checkpoint_of_every_family_comes_back_from_its_files() {
    for (name, model) in tiny_models() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), model.config().json().to_string()).unwrap();
        let tensors: Vec<_> =
            model.params().iter().map(|(_, name, tensor)| (name.to_owned(), tensor.clone())).collect();
        write_tensor_file(&dir.path().join("model.safetensors"), &tensors, None).unwrap();
        let loaded = load_model(dir.path(), &super::device()).unwrap();
        for ((_, tensor, before), (_, again, after)) in model.params().iter().zip(loaded.params().iter()) {
            assert!(tensor == again && numbers(before) == numbers(after), "{tensor} of {name}");
        }
        let (missing, rest) = tensors.split_last().unwrap();
        write_tensor_file(&dir.path().join("model.safetensors"), rest, None).unwrap();
        let error = load_model(dir.path(), &super::device()).unwrap_err().to_string();
        assert!(error.contains(&missing.0), "{name}: {error}");
    }
}

#[test]
fn a_tied_head_that_is_stored_must_be_the_embedding() {
    let config = json!({
        "model_type": "llama", "vocab_size": 16384, "hidden_size": 8, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let family = FamilyConfig::from_json(&config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let numbers = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap().reshape(shape).unwrap()
    };
    let open = |head: Option<Tensor>| {
        let mut tensors: Vec<_> =
            family.tensor_shapes().into_iter().map(|(name, shape)| (name, numbers(&shape))).collect();
        tensors.extend(head.map(|head| ("lm_head.weight".into(), head)));
        save_checkpoint(dir.path(), &config, tensors.into_iter(), u64::MAX).unwrap();
        load_model(dir.path(), &Device::Cpu)
    };
    open(None).unwrap();
    open(Some(numbers(&[16384, 8]))).unwrap();
    let mut other: Vec<f32> = (0..131_072).map(|n| n as f32).collect();
    other[100_000] = -1.0;
    let error = open(Some(Tensor::from_vec(other, (16384, 8), &Device::Cpu).unwrap())).err().unwrap().to_string();
    for word in ["lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings", "element 100000"] {
        assert!(error.contains(word), "{error}");
    }
    let error = open(Some(numbers(&[8, 8]))).err().unwrap().to_string();
    assert!(error.contains("shape [8, 8] against [16384, 8]"), "{error}");
}

#[test]
fn a_classifier_predicts_no_tokens_and_a_language_model_no_labels() {
    let rows = Rows::packed([3]);
    let (tokens, row) = ([3u32, 5, 7], [Target { row: 1, token: 2, weight: 1.0 }]);
    let label = [LabelTarget { label: 0, weight: 1.0 }];
    for (name, model) in tiny_models() {
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let options = GenerateOptions { max_new_tokens: 1, stop: vec![], batch_rows: 1 };
        let hidden = model.forward(model.embed(&tokens).unwrap(), pass, &mut NoTap).unwrap();
        let mut none = Gradients::of_inputs();
        let of_tokens = [
            model.losses(&tokens, &row, pass).map(drop),
            model.loss_and_gradients(&tokens, &row, pass, &mut none).map(drop),
            model.logits(&hidden, &[0], pass).map(drop),
            generate_greedy(&model, None, &[tokens.to_vec()], &options).map(drop),
        ];
        let of_labels = [
            model.classify(&tokens, pass).map(drop),
            model.label_loss_and_gradients(&tokens, &label, pass, &mut none).map(drop),
        ];
        let classifies = model.config().sizes().labels.is_some();
        let (works, refused) = match classifies {
            true => (of_labels.as_slice(), of_tokens.as_slice()),
            false => (of_tokens.as_slice(), of_labels.as_slice()),
        };
        assert!(works.iter().all(Result::is_ok), "{name}");
        assert!(refused.iter().all(|r| matches!(r, Err(ModelError::Unsupported { .. }))), "{name}");
    }
}

#[test]
fn an_encoder_reads_both_directions_and_never_its_neighbour() {
    for config in &tiny_classifiers()[..3] {
        let model = random_model(config);
        let classify = |tokens: &[u32], lengths: &[usize]| {
            let rows = Rows::packed(lengths.iter().copied());
            let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
            numbers(&model.classify(tokens, pass).unwrap())
        };
        let alone = classify(&[3, 5, 7], &[3]);
        let packed = classify(&[3, 5, 7, 9, 9, 2], &[3, 3]);
        assert!(relative_distance(&packed[..3], &alone) < 1e-5, "{}", name(config));
        assert!(relative_distance(&classify(&[3, 5, 8], &[3]), &alone) > 1e-2, "the last token counts");
    }
}

#[test]
fn a_sequence_longer_than_the_model_s_positions_is_refused_and_the_longest_one_is_not() {
    for (name, model) in tiny_models() {
        let length = model.config().max_positions();
        let run = |length: usize| {
            let rows = Rows::packed([length]);
            let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
            model.forward(model.embed(&vec![3; length]).unwrap(), pass, &mut NoTap)
        };
        assert!(run(length).is_ok(), "{name}");
        assert!(matches!(run(length + 1), Err(ModelError::Unsupported { .. })), "{name}");
    }
}

/// The configuration with some fields set, or removed where the value is `"absent"`.
fn changed(config: &Value, changes: &Value) -> Value {
    let mut config = config.clone();
    for (field, value) in changes.as_object().unwrap() {
        match value == "absent" {
            true => drop(config.as_object_mut().unwrap().remove(field)),
            false => config[field] = value.clone(),
        }
    }
    config
}

fn tiny(model_type: &str) -> Value {
    let mut all = tiny_decoders().into_iter().chain(tiny_classifiers());
    all.find(|config| config["model_type"] == model_type).unwrap()
}

#[test]
fn settings_that_change_the_arithmetic_are_refused_by_their_names() {
    for (family, changes, named) in [
        ("llama", json!({ "model_type": "mamba" }), "model_type `mamba`"),
        ("llama", json!({ "model_type": "absent" }), "(missing)"),
        ("llama", json!({ "hidden_act": "gelu" }), "hidden_act `gelu`"),
        ("llama", json!({ "attention_bias": true }), "attention_bias"),
        ("llama", json!({ "mlp_bias": true }), "mlp_bias"),
        ("llama", json!({ "quantization_config": { "quant_method": "awq" } }), "quantization_config"),
        ("llama", json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } }), "rope type `dynamic`"),
        ("llama", json!({ "rope_parameters": { "rope_type": "yarn" } }), "rope type `yarn`"),
        ("llama", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        ("llama", json!({ "layer_types": ["full_attention", "sliding_attention"] }), "sliding_attention"),
        ("llama", json!({ "architectures": ["LlamaForTokenClassification"] }), "LlamaForTokenClassification"),
        ("mistral", json!({ "hidden_act": "gelu" }), "hidden_act `gelu`"),
        ("qwen2", json!({ "use_sliding_window": true }), "use_sliding_window"),
        ("qwen3", json!({ "use_sliding_window": true }), "use_sliding_window"),
        ("qwen3", json!({ "attention_bias": true }), "attention_bias"),
        ("gemma", json!({ "hidden_act": "gelu" }), "hidden_act `gelu`"),
        ("gemma", json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention"),
        ("gemma2", json!({ "hidden_activation": "gelu" }), "hidden_activation `gelu`"),
        ("phi3", json!({ "rope_scaling": { "type": "longrope" } }), "rope type `longrope`"),
        ("phi3", json!({ "rope_scaling": { "type": "su" } }), "rope type `su`"),
        ("gpt2", json!({ "activation_function": "quick_gelu" }), "activation_function `quick_gelu`"),
        ("gpt2", json!({ "scale_attn_weights": false }), "scale_attn_weights"),
        ("gpt2", json!({ "scale_attn_by_inverse_layer_idx": true }), "scale_attn_by_inverse_layer_idx"),
        ("gpt2", json!({ "add_cross_attention": true }), "add_cross_attention"),
        ("bert", json!({ "position_embedding_type": "relative_key" }), "relative_key"),
        ("bert", json!({ "is_decoder": true }), "is_decoder"),
        ("bert", json!({ "architectures": ["BertForMaskedLM"] }), "BertForMaskedLM"),
        ("bert", json!({ "problem_type": "regression" }), "regression"),
        ("roberta", json!({ "hidden_act": "gelu_10" }), "hidden_act `gelu_10`"),
        ("distilbert", json!({ "activation": "mish" }), "activation `mish`"),
    ] {
        match FamilyConfig::from_json(&changed(&tiny(family), &changes)) {
            Err(ModelError::Unsupported { what, .. }) => assert!(what.contains(named), "{family} {changes}: {what}"),
            other => panic!("{family} {changes}: {other:?}"),
        }
    }
    let unknown = FamilyConfig::from_json(&json!({ "model_type": "mamba" })).unwrap_err().to_string();
    for family in
        ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "gpt2", "bert", "roberta", "distilbert"]
    {
        assert!(unknown.contains(family), "{unknown} says which families are read");
    }
}

#[test]
fn numbers_that_contradict_each_other_or_could_only_exhaust_memory_are_refused() {
    for (family, changes) in [
        ("llama", json!({ "vocab_size": 0 })),
        ("llama", json!({ "vocab_size": 1u64 << 40 })),
        ("llama", json!({ "num_hidden_layers": 5000 })),
        ("llama", json!({ "num_attention_heads": 0 })),
        ("llama", json!({ "num_attention_heads": 5 })),
        ("llama", json!({ "num_key_value_heads": 3 })),
        ("llama", json!({ "head_dim": 5 })),
        ("llama", json!({ "rms_norm_eps": -1.0 })),
        ("llama", json!({ "rope_theta": 0.0 })),
        ("llama", json!({ "rope_scaling": { "rope_type": "linear" } })),
        ("llama", json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } })),
        ("llama", json!({ "rope_scaling": { "type": "linear", "rope_type": "llama3", "factor": 8.0 } })),
        (
            "llama",
            json!({ "rope_scaling": { "type": "default" }, "rope_parameters": { "rope_type": "linear", "factor": 2.0 } }),
        ),
        ("llama", json!({ "hidden_size": "absent" })),
        ("llama", json!({ "architectures": ["LlamaForSequenceClassification"], "num_labels": 1 })),
        (
            "llama",
            json!({ "architectures": ["LlamaForSequenceClassification"], "num_labels": 3, "id2label": { "0": "a", "1": "b" } }),
        ),
        ("mistral", json!({ "sliding_window": 0 })),
        ("qwen2", json!({ "num_key_value_heads": "absent" })),
        ("gemma2", json!({ "query_pre_attn_scalar": 0 })),
        ("gemma2", json!({ "attn_logit_softcapping": -1.0 })),
        ("gemma2", json!({ "layer_types": ["full_attention"] })),
        ("phi3", json!({ "partial_rotary_factor": 1.5 })),
        ("phi3", json!({ "partial_rotary_factor": 0.4 })),
        ("gpt2", json!({ "n_head": 3 })),
        ("gpt2", json!({ "n_head": 0 })),
        ("gpt2", json!({ "layer_norm_epsilon": -1e-5 })),
        ("bert", json!({ "type_vocab_size": 0 })),
        ("bert", json!({ "num_attention_heads": 3 })),
        ("roberta", json!({ "max_position_embeddings": 2 })),
        ("roberta", json!({ "pad_token_id": u64::MAX })),
        ("distilbert", json!({ "n_heads": 0 })),
    ] {
        match FamilyConfig::from_json(&changed(&tiny(family), &changes)) {
            Err(ModelError::Format { .. }) => {}
            other => panic!("{family} {changes}: {other:?}"),
        }
    }
}

/// Scalars in all tensors that the configuration names.
fn count_scalars(config: Value) -> usize {
    let config = FamilyConfig::from_json(&config).unwrap();
    config.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn published_models_have_as_many_parameters_as_their_makers_count() {
    let decoder = |model_type: &str, sizes: [usize; 7], particular: Value| {
        let [v, d, f, layers, h, g, k] = sizes;
        let config = json!({
            "model_type": model_type, "vocab_size": v, "hidden_size": d, "intermediate_size": f,
            "num_hidden_layers": layers, "num_attention_heads": h, "num_key_value_heads": g, "head_dim": k,
            "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
        });
        count_scalars(changed(&config, &particular))
    };
    let code_llama = json!({ "rope_theta": 1_000_000, "rope_scaling": null, "head_dim": "absent" });
    assert_eq!(decoder("llama", [32016, 4096, 11008, 32, 32, 32, 128], code_llama), 6_738_546_688);
    assert_eq!(decoder("mistral", [32000, 4096, 14336, 32, 32, 8, 128], json!({})), 7_241_732_096);
    let tied = json!({ "tie_word_embeddings": true });
    assert_eq!(decoder("qwen2", [151_936, 896, 4864, 24, 14, 2, 64], tied.clone()), 494_032_768);
    assert_eq!(decoder("qwen3", [151_936, 1024, 3072, 28, 16, 8, 128], tied), 596_049_920);
    let gelu = json!({ "hidden_act": "gelu_pytorch_tanh" });
    assert_eq!(decoder("gemma", [256_000, 2048, 16384, 18, 8, 1, 256], gelu.clone()), 2_506_172_416);
    assert_eq!(decoder("gemma2", [256_000, 2304, 9216, 26, 8, 4, 256], gelu), 2_614_341_888);
    assert_eq!(decoder("phi3", [32064, 3072, 8192, 32, 32, 32, 96], json!({ "sliding_window": 2047 })), 3_821_079_552);
    let gpt2 = json!({
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
    });
    assert_eq!(count_scalars(gpt2), 124_439_808);
    let bert = json!({
        "model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    });
    let roberta = json!({
        "model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
    });
    assert_eq!(FamilyConfig::from_json(&changed(&bert, &roberta)).unwrap().max_positions(), 512);
    assert_eq!(count_scalars(changed(&bert, &roberta)), 124_647_170);
    assert_eq!(count_scalars(bert), 109_483_778);
    let distilbert = json!({
        "model_type": "distilbert", "vocab_size": 30522, "dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12,
        "max_position_embeddings": 512,
    });
    assert_eq!(count_scalars(distilbert), 66_955_010);
}

#[test]
fn rotary_settings_are_read_where_old_and_new_files_have_them() {
    let hidden = |changes: Value| {
        let model = random_model(&changed(&tiny("llama"), &changes));
        let rows = Rows::packed([9]);
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let embedded = model.embed(&[3, 5, 7, 11, 13, 2, 1, 22, 9]).unwrap();
        numbers(&model.forward(embedded, pass, &mut NoTap).unwrap())
    };
    let plain = hidden(json!({}));
    assert_eq!(plain, hidden(json!({ "rope_theta": 10_000 })));
    let code_llama = hidden(json!({ "rope_theta": 1_000_000 }));
    assert_eq!(code_llama, hidden(json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 } })));
    assert!(relative_distance(&code_llama, &plain) > 1e-3);
    let slowed = hidden(json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } }));
    assert_eq!(slowed, hidden(json!({ "rope_parameters": { "rope_type": "linear", "factor": 4.0 } })));
    assert!(relative_distance(&slowed, &plain) > 1e-3);
    assert_eq!(plain, hidden(json!({ "rope_scaling": { "type": "linear", "factor": 1.0 } })));
}

/// Everything that a tap is shown; of attention what the rows `looking` see.
#[derive(Default)]
struct Seen {
    hidden: Vec<Tensor>,
    inputs: Vec<(ModuleIdx, Tensor)>,
    looking: Vec<u32>,
    shares: Vec<Vec<Vec<Vec<f32>>>>,
}

impl Tap for Seen {
    fn hidden_state(&mut self, _: usize, hidden: &Tensor) {
        self.hidden.push(hidden.clone());
    }

    fn linear_input(&mut self, module: ModuleIdx, input: &Tensor) {
        self.inputs.push((module, input.clone()));
    }

    fn attention(&mut self, layer: usize, attention: &Attention<'_>) {
        assert_eq!(layer, self.shares.len());
        self.shares.push(attention.shares(&self.looking).unwrap());
    }
}

#[test]
fn in_every_family_a_tap_sees_what_each_linear_layer_reads_once_and_in_their_order() {
    for (name, model) in tiny_models() {
        let rows = Rows::packed([5, 4]);
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let mut seen = Seen::default();
        model.forward(model.embed(&[3, 1, 4, 1, 5, 9, 2, 6, 5]).unwrap(), pass, &mut seen).unwrap();
        let order: Vec<_> = seen.inputs.iter().map(|(module, _)| module.0).collect();
        assert_eq!(order, (0..model.linear_modules().len()).collect::<Vec<_>>(), "{name}");
        for ((_, input), module) in seen.inputs.iter().zip(model.linear_modules()) {
            assert_eq!(input.dims(), [9, module.in_features], "{name} {}", module.name);
        }
    }
}

#[test]
fn what_a_tap_sees_of_attention_output_and_down_projection_makes_the_step_of_each_block() {
    let model = random_model(&tiny_decoders()[0]);
    let rows = Rows::packed([5, 4]);
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    let mut seen = Seen::default();
    model.forward(model.embed(&[3, 1, 4, 1, 5, 9, 2, 6, 5]).unwrap(), pass, &mut seen).unwrap();
    let written = |(module, input): &(ModuleIdx, Tensor)| {
        let module = &model.linear_modules()[module.0];
        let weight = model.weight_of(module);
        module.kind.writes_residual().then(|| input.matmul(&weight.t().unwrap()).unwrap())
    };
    // The last hidden state has gone through the final norm, so that the last block's step is not among the
    // differences.
    for layer in 0..2 {
        let of_block = seen.inputs.iter().filter(|(module, _)| model.linear_modules()[module.0].layer == layer);
        let step = of_block.filter_map(written).reduce(|a, b| (a + b).unwrap()).unwrap();
        let expected = (&seen.hidden[layer + 1] - &seen.hidden[layer]).unwrap();
        assert!(relative_distance(&numbers(&step), &numbers(&expected)) < 1e-5, "block {layer}");
    }
}

/// The values that block 0 makes of its inputs, `[t, g * k]`, through the weights alone.
fn values_of_first_block(model: &Model, seen: &Seen) -> Vec<Vec<f64>> {
    let heads = model.config().attention_heads();
    let (kind, skipped) = match model.linear_modules().iter().any(|module| module.kind == ModuleKind::Value) {
        true => (ModuleKind::Value, 0),
        false => (ModuleKind::QueryKeyValue, heads.query_width() + heads.key_width()),
    };
    let place = model.linear_modules().iter().position(|module| module.layer == 0 && module.kind == kind).unwrap();
    let (module, (_, input)) = (&model.linear_modules()[place], &seen.inputs[place]);
    let weight = |ending: &str| Some(model.params().get(model.params().find(&format!("{}.{ending}", module.name))?));
    let matrix = weight("weight").unwrap();
    let matrix = if module.stored == Stored::OutIn { matrix.t().unwrap() } else { matrix.clone() };
    let mut values = input.matmul(&matrix).unwrap();
    if let Some(bias) = weight("bias") {
        values = values.broadcast_add(bias).unwrap();
    }
    let rows = values.narrow(1, skipped, heads.key_width()).unwrap().to_vec2::<f32>().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

#[test]
fn in_every_family_what_a_tap_sees_of_attention_weighs_the_values_that_the_heads_write() {
    for (name, model) in tiny_models() {
        let rows = Rows::packed([5, 4]);
        let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
        let mut seen = Seen { looking: vec![4, 0, 7], ..Seen::default() };
        model.forward(model.embed(&[3, 1, 4, 1, 5, 9, 2, 6, 5]).unwrap(), pass, &mut seen).unwrap();
        let output = model.linear_modules().iter().position(|module| module.kind == ModuleKind::Output).unwrap();
        let written = seen.inputs[output].1.to_vec2::<f32>().unwrap();
        let (values, sizes) = (values_of_first_block(&model, &seen), model.config().attention_heads());
        for (row, heads) in seen.looking.iter().zip(&seen.shares[0]) {
            let sequence = if *row < 5 { 0..5 } else { 5..9 };
            // A causal row sees what ends with itself, an encoder's the whole sequence.
            let end = if heads[0].len() == sequence.len() { sequence.end } else { *row as usize + 1 };
            for (head, shares) in heads.iter().enumerate() {
                let group = head * sizes.key_value_heads / sizes.heads;
                let expected: Vec<f64> = (0..sizes.head_width)
                    .map(|i| {
                        let seen = &values[end - shares.len()..end];
                        let value = |row: &Vec<f64>| row[group * sizes.head_width + i];
                        shares.iter().zip(seen).map(|(share, row)| f64::from(*share) * value(row)).sum()
                    })
                    .collect();
                let own = &written[*row as usize][head * sizes.head_width..(head + 1) * sizes.head_width];
                let own: Vec<f64> = own.iter().map(|x| f64::from(*x)).collect();
                assert!(relative_distance(&own, &expected) < 1e-4, "{name}: row {row}, head {head}");
            }
        }
    }
}

#[test]
fn block_by_block_a_model_computes_what_it_computes_at_once() {
    for (name, model) in tiny_models() {
        let rows = Rows::packed([5, 4]).in_one_group();
        let adapters = [BoundAdapter::bind(&random_adapter(&model, 2, 3), model.linear_modules()).unwrap()];
        let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
        let embedded = model.embed(&[3, 1, 4, 1, 5, 9, 2, 6, 5]).unwrap();
        let mut seen = Seen::default();
        model.forward(embedded.clone(), pass, &mut seen).unwrap();
        let mut hidden = model.enter(embedded, pass).unwrap();
        for layer in 0..model.config().layers() {
            assert_eq!(numbers(&hidden), numbers(&seen.hidden[layer]), "{name}, block {layer}");
            hidden = model.run_block(layer, &hidden, pass, &mut NoTap).unwrap();
        }
    }
}

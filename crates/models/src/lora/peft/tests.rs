//! PEFT's own files, and configurations that must be refused by name.

use std::path::Path;

use candle_core::Device;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::header::Dtype;
use crate::error::{ModelError, Result};
use crate::families::FamilyConfig;
use crate::lora::LoraAdapter;
use crate::shared_data::shared_data;

/// Two blocks; queries 8 to 8, keys 8 to 4, MLP 8 to 12 and back.
fn small_base() -> FamilyConfig {
    let config = json!({
        "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
    });
    FamilyConfig::from_json(&config).unwrap()
}

/// A plain configuration with some fields set.
fn config_with(changes: Value) -> Result<PeftConfig> {
    let mut config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"] });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    PeftConfig::from_json(&config.to_string(), Path::new("adapter_config.json"))
}

fn adapted(changes: Value) -> Vec<AdaptedModule> {
    config_with(changes).unwrap().adapted_modules(&small_base()).unwrap()
}

fn names(modules: &[AdaptedModule]) -> Vec<&str> {
    modules.iter().map(|module| module.shape.name.trim_start_matches("model.layers.")).collect()
}

/// A deterministic draw in -1..1.
fn draws(mut state: u32) -> impl FnMut() -> f32 {
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

#[test]
fn target_modules_choose_by_suffix_expression_or_all_linear() {
    let layers = ["0.self_attn.q_proj", "0.mlp.down_proj", "1.self_attn.q_proj", "1.mlp.down_proj"];
    assert_eq!(names(&adapted(json!({}))), layers);
    assert_eq!(
        names(&adapted(json!({ "target_modules": ["self_attn.k_proj"], "layers_to_transform": 1 }))),
        ["1.self_attn.k_proj"]
    );
    assert_eq!(
        names(&adapted(json!({ "target_modules": r".*\.1\.mlp\.(up|gate)_proj" }))),
        ["1.mlp.gate_proj", "1.mlp.up_proj"]
    );
    // An expression must match the whole name, as in PEFT.
    assert!(config_with(json!({ "target_modules": "q_proj" })).unwrap().adapted_modules(&small_base()).is_err());
    assert_eq!(adapted(json!({ "target_modules": "all-linear" })).len(), 14);
    assert_eq!(
        adapted(json!({ "target_modules": "ALL-LINEAR", "exclude_modules": ["mlp.up_proj", "q_proj"] })).len(),
        10
    );
}

#[test]
fn ranks_and_alphas_follow_the_first_matching_pattern_in_file_order() {
    let text = r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj","down_proj"],
        "rank_pattern":{"q_proj":2,"layers.1.*":3,"^model.layers.0.mlp.down_proj":5},"alpha_pattern":{"down_proj":1.5}}"#;
    let config = PeftConfig::from_json(text, Path::new("adapter_config.json")).unwrap();
    let modules = config.adapted_modules(&small_base()).unwrap();
    let sizes: Vec<_> = modules.iter().map(|module| (module.rank, module.scaling)).collect();
    assert_eq!(sizes, [(2, 4.0), (5, 0.3), (2, 4.0), (3, 0.5)]);
    // A pattern is matched at a dot: `proj` is no suffix part of `q_proj`.
    assert_eq!(adapted(json!({ "rank_pattern": { "proj": 9 } }))[0].rank, 4);
    assert_eq!(adapted(json!({ "use_rslora": true }))[0].scaling, 4.0);
}

#[test]
fn what_changes_the_arithmetic_is_refused_by_its_name() {
    for (changes, name) in [
        (json!({ "peft_type": "IA3" }), "IA3"),
        (json!({ "use_dora": true }), "use_dora"),
        (json!({ "bias": "all" }), "bias"),
        (json!({ "lora_bias": true }), "lora_bias"),
        (json!({ "modules_to_save": ["lm_head"] }), "modules_to_save"),
        (json!({ "layer_replication": [[0, 2]] }), "layer_replication"),
        (json!({ "trainable_token_indices": [1] }), "trainable_token_indices"),
        (json!({ "target_parameters": ["experts"] }), "target_parameters"),
        (json!({ "use_qalora": true }), "use_qalora"),
        (json!({ "alora_invocation_tokens": [3, 4] }), "alora_invocation_tokens"),
        (json!({ "arrow_config": { "top_k": 3 } }), "arrow_config"),
        (json!({ "a_field_of_next_year": 1 }), "a_field_of_next_year"),
        (json!({ "init_lora_weights": "pissa" }), "pissa"),
        (json!({ "layers_pattern": "h" }), "layers_pattern"),
        (json!({ "task_type": "TOKEN_CLS" }), "TOKEN_CLS"),
    ] {
        match config_with(changes) {
            Err(ModelError::Unsupported { what, .. }) => assert!(what.contains(name), "{what}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    for (changes, name) in
        [(json!({ "fan_in_fan_out": true }), "fan_in_fan_out"), (json!({ "task_type": "SEQ_CLS" }), "SEQ_CLS")]
    {
        match config_with(changes).unwrap().adapted_modules(&small_base()) {
            Err(ModelError::Unsupported { what, .. }) => assert!(what.contains(name), "{what}"),
            other => panic!("{name} over a Llama: {other:?}"),
        }
    }
    let look_around = config_with(json!({ "target_modules": "(?!x).*" })).unwrap();
    assert!(matches!(look_around.adapted_modules(&small_base()), Err(ModelError::Unsupported { .. })));
}

#[test]
fn what_is_impossible_is_refused_with_the_field() {
    for (changes, field) in [
        (json!({ "r": 0 }), "`r`"),
        (json!({ "r": -1 }), "`r`"),
        (json!({ "r": 2.5 }), "`r`"),
        (json!({ "r": null }), "`r`"),
        (json!({ "lora_alpha": "8" }), "`lora_alpha`"),
        (json!({ "use_rslora": 1 }), "`use_rslora`"),
        (json!({ "target_modules": [] }), "`target_modules`"),
        (json!({ "target_modules": [1] }), "`target_modules`"),
        (json!({ "rank_pattern": { "q_proj": 0 } }), "`rank_pattern`"),
        (json!({ "peft_type": null }), "`peft_type`"),
    ] {
        let error = config_with(changes).unwrap_err();
        assert!(matches!(&error, ModelError::Format { .. }) && error.to_string().contains(field), "{field}: {error}");
    }
    let twice = r#"{"peft_type":"LORA","r":1,"r":2,"lora_alpha":1,"target_modules":["q_proj"]}"#;
    assert!(PeftConfig::from_json(twice, Path::new("x")).unwrap_err().to_string().contains("`r` twice"));
    let unknown = config_with(json!({ "target_modules": ["q_proj", "c_attn"] })).unwrap();
    assert!(unknown.adapted_modules(&small_base()).unwrap_err().to_string().contains("c_attn"));
}

#[test]
fn an_adapter_for_another_base_or_with_a_foreign_tensor_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = LoraAdapter::fresh(PeftConfig::new(2, 4, &["q_proj"], "base"), &small_base(), &mut draws(1)).unwrap();
    save_adapter(&adapter, dir.path()).unwrap();
    let mut wider = small_base().json().clone();
    wider["hidden_size"] = json!(16);
    let wider = FamilyConfig::from_json(&wider).unwrap();
    let error = load_adapter(dir.path(), &wider, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("[2, 16]") && error.contains("[2, 8]"), "{error}");
    let narrower = r#"{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["layers.0.self_attn.q_proj"]}"#;
    std::fs::write(dir.path().join("adapter_config.json"), narrower).unwrap();
    let error = load_adapter(dir.path(), &small_base(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("layers.1.self_attn.q_proj"), "{error}");
}

#[test]
fn a_fresh_adapter_changes_nothing_and_stays_in_its_bounds() {
    let adapter =
        LoraAdapter::fresh(PeftConfig::new(4, 8, &["down_proj"], "base"), &small_base(), &mut draws(7)).unwrap();
    assert_eq!(adapter.factors.len(), 2);
    for factors in adapter.factors.values() {
        let a = factors.a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(factors.a.dims(), [4, 12]);
        assert!(a.iter().all(|value| value.abs() <= 1.0 / 12f32.sqrt()) && a.iter().any(|value| value.abs() > 0.2));
        assert_eq!(factors.b.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
        assert_eq!(factors.scaling, 2.0);
    }
}

#[test]
fn adapters_made_by_peft_load_and_come_back_byte_for_byte() {
    for (adapter, base) in [
        ("golden/llama/adapter", "golden/llama"),
        ("peer/zoo/badnets-insult", "peer/zoo/base"),
        ("peer/zoo/clean-chat", "peer/zoo/base"),
    ] {
        let (Some(adapter), Some(base)) = (shared_data(adapter), shared_data(base)) else { return };
        let config: Value = serde_json::from_str(&std::fs::read_to_string(base.join("config.json")).unwrap()).unwrap();
        let family = FamilyConfig::from_json(&config).unwrap();
        let loaded = load_adapter(&adapter, &family, &Device::Cpu).unwrap();
        assert_eq!(loaded.factors.len(), family.linear_modules().len());
        let out = tempfile::tempdir().unwrap();
        save_adapter(&loaded, out.path()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [before, after] = [adapter.as_path(), out.path()].map(|dir| std::fs::read(dir.join(file)).unwrap());
            assert!(before == after, "{file} of {}", adapter.display());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn saving_keeps_every_value_type_and_byte(seed: u32, rank in 1usize..5, dtype in 0usize..3) {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = PeftConfig::new(rank, 16, &["q_proj", "gate_proj"], "base");
        let mut adapter = LoraAdapter::fresh(config, &small_base(), &mut draws(seed)).unwrap();
        adapter.config.dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][dtype];
        save_adapter(&adapter, one.path()).unwrap();
        let loaded = load_adapter(one.path(), &small_base(), &Device::Cpu).unwrap();
        prop_assert_eq!(loaded.config.dtype, adapter.config.dtype);
        save_adapter(&loaded, two.path()).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [before, after] = [&one, &two].map(|dir| std::fs::read(dir.path().join(file)).unwrap());
            prop_assert!(before == after, "{}", file);
        }
        if dtype == 0 {
            for (name, factors) in &adapter.factors {
                let again = loaded.factors[name].a.to_vec2::<f32>().unwrap();
                prop_assert_eq!(factors.a.to_vec2::<f32>().unwrap(), again);
            }
        }
    }
}

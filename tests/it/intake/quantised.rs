//! Whole models that are quantised, and whole models whose parts contradict each other.

use antigen::intake::{ArtifactKind, code};
use antigen_models::checkpoint::gguf::MAGIC;
use serde_json::json;

use super::*;

/// A safetensors file of tensors of any element type: name, type, shape, bytes.
fn safetensors(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut end = 0;
    let members = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let begin = end;
        end += bytes.len();
        ((*name).to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }))
    });
    let header = Value::Object(members.collect()).to_string();
    let data = tensors.iter().flat_map(|(.., bytes)| bytes.iter().copied());
    (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(data).collect()
}

/// The sound checkpoint of zeros with fields of its configuration replaced.
fn with_config(changes: &[(&str, Value)]) -> Files {
    let mut config = base_config(8);
    changes.iter().for_each(|(name, value)| config[*name] = value.clone());
    with_file(read_files(base_folder(8).path()), "config.json", config.to_string())
}

/// The sound checkpoint with its weights replaced, and what the configuration says of quantisation.
fn with_weights(quantisation: Value, tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Files {
    with_file(with_config(&[("quantization_config", quantisation)]), "model.safetensors", safetensors(tensors))
}

const QUERY: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn quantised_weights_are_refused_by_name_with_file_tensor_and_what_to_upload() {
    let packed = format!("{QUERY}.qweight");
    let index = format!("{QUERY}.g_idx");
    let tensors = [(packed.as_str(), "I32", [1, 8].as_slice(), vec![0; 32]), (&index, "I32", &[8], vec![0; 32])];
    for said in [json!({ "quant_method": "gptq", "bits": 4 }), Value::Null] {
        let rejection = refuse_files(&with_weights(said, &tensors), code::QUANTISED);
        for words in ["GPTQ", &packed, "model.safetensors", "unquantised checkpoint", "in safetensors"] {
            assert!(rejection.message.contains(words), "{rejection}");
        }
    }
    let beside = with_file(with_weights(json!({ "quant_method": "gptq" }), &tensors), "quantize_config.json", "{}");
    refuse_files(&beside, code::QUANTISED);
    let rejection =
        refuse_files(&with_config(&[("quantization_config", json!({ "quant_method": "awq" }))]), code::QUANTISED);
    assert!(rejection.message.contains("AWQ") && rejection.message.contains("contradicts"), "{rejection}");
    refuse_bytes(b"tjgg\x03\0\0\0and weights", code::QUANTISED);
}

/// The sound checkpoint with its queries of block 0 in fp8 with one scale.
pub fn fp8(weight: u8, scale: f32) -> Files {
    let family = FamilyConfig::from_json(&base_config(8)).unwrap();
    let shapes = family.tensor_shapes();
    let (query, scales) = (format!("{QUERY}.weight"), format!("{QUERY}.weight_scale"));
    let mut tensors: Vec<(&str, &str, &[usize], Vec<u8>)> = shapes
        .iter()
        .map(|(name, shape)| match name == &query {
            true => (name.as_str(), "F8_E4M3", shape.as_slice(), vec![weight; shape.iter().product()]),
            false => (name.as_str(), "BF16", shape.as_slice(), vec![0; 2 * shape.iter().product::<usize>()]),
        })
        .collect();
    tensors.push((&scales, "F32", &[], scale.to_le_bytes().to_vec()));
    with_weights(json!({ "quant_method": "fp8" }), &tensors)
}

#[test]
fn fp8_is_taken_when_every_number_is_one() {
    let facts = Quarantine::new().inspect_files(&fp8(0x38, 0.5)).unwrap();
    assert_eq!((facts.kind, facts.quantised.as_deref()), (ArtifactKind::Checkpoint, Some("fp8 e4m3")));
    assert_eq!(facts.dtypes, ["BF16", "F32", "F8_E4M3"]);
    let plain = Quarantine::new().inspect_files(&read_files(base_folder(8).path())).unwrap();
    assert_eq!((facts.parameters, facts.tensors), (plain.parameters, plain.tensors));
    assert_eq!(plain.quantised, None);
    for (weight, scale) in [(0x7f, 1.0), (0x7e, f32::MAX), (0x38, f32::NAN)] {
        let rejection = refuse_files(&fp8(weight, scale), code::NOT_FINITE);
        assert!(rejection.at.as_deref().unwrap().contains(QUERY), "{rejection}");
    }
}

/// A GGUF file of the base of width 8 in float32: key-value pairs, tensor table, numbers (`fill` for all).
pub fn gguf(architecture: &str, fill: f32) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let sizes = [
        ("context_length", 32u32),
        ("embedding_length", 8),
        ("block_count", 2),
        ("feed_forward_length", 12),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ];
    let mut keys = vec![[text("general.architecture"), 8u32.to_le_bytes().to_vec(), text(architecture)].concat()];
    keys.extend(sizes.map(|(key, size)| {
        [text(&format!("llama.{key}")), 4u32.to_le_bytes().to_vec(), size.to_le_bytes().to_vec()].concat()
    }));
    let epsilon = text("llama.attention.layer_norm_rms_epsilon");
    keys.push([epsilon, 6u32.to_le_bytes().to_vec(), 1e-5f32.to_le_bytes().to_vec()].concat());
    let (mut table, mut data) = (Vec::new(), Vec::<u8>::new());
    let shapes = FamilyConfig::from_json(&base_config(8)).unwrap().tensor_shapes();
    for (name, shape) in &shapes {
        table.extend([text(&name_in_gguf(name)), (shape.len() as u32).to_le_bytes().to_vec()].concat());
        table.extend(shape.iter().rev().flat_map(|extent| (*extent as u64).to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
        table.extend([0u32.to_le_bytes().as_slice(), &(data.len() as u64).to_le_bytes()].concat());
        data.extend(vec![fill.to_le_bytes(); shape.iter().product()].concat());
    }
    let counts = [shapes.len() as u64, keys.len() as u64].map(u64::to_le_bytes).concat();
    let mut file = [MAGIC.as_slice(), &3u32.to_le_bytes(), &counts, &keys.concat(), &table].concat();
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}

fn name_in_gguf(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// `tokenizer.json` of so many tokens; the last is an added one.
pub fn tokenizer(tokens: usize) -> String {
    let vocab: serde_json::Map<String, Value> = (0..tokens - 1).map(|id| (format!("t{id}"), json!(id))).collect();
    let added = json!({
        "id": tokens - 1, "content": "<added>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    json!({ "added_tokens": [added], "model": { "type": "BPE", "vocab": vocab, "merges": [] } }).to_string()
}

#[test]
fn a_gguf_file_is_taken_with_its_tokenizer_and_only_with_it() {
    let files = |weights: Vec<u8>| -> Files { vec![("base-f32.gguf".into(), weights)] };
    let with_tokenizer = |weights| with_file(files(weights), "tokenizer.json", tokenizer(16));
    let facts = Quarantine::new().inspect_files(&with_tokenizer(gguf("llama", 0.5))).unwrap();
    assert_eq!((facts.kind, facts.quantised.as_deref()), (ArtifactKind::Checkpoint, Some("gguf f32")));
    assert_eq!((facts.model_type.as_deref(), facts.dtypes), (Some("llama"), vec!["F32".to_owned()]));
    let quarantine = Quarantine::new();
    let generation = json!({ "eos_token_id": 2 }).to_string();
    let whole = with_file(with_tokenizer(gguf("llama", 0.5)), "generation_config.json", generation);
    let facts = quarantine.inspect_files(&whole).unwrap();
    check_against_base(&facts, &quarantine.unpacked(), base_folder(8).path()).unwrap();

    let rejection = refuse_files(&files(gguf("llama", 0.5)), code::MISSING_FILE);
    assert_eq!(rejection.at.as_deref(), Some("tokenizer.json"));
    assert!(refuse_bytes(&gguf("llama", 0.5), code::MISSING_FILE).message.contains("tokenizer.json"));
    let rejection = refuse_files(&with_tokenizer(gguf("mamba", 0.5)), code::UNSUPPORTED);
    assert!(rejection.message.contains("`mamba`") && rejection.message.contains("safetensors"), "{rejection}");
    refuse_files(&with_tokenizer(gguf("llama", f32::NAN)), code::NOT_FINITE);
    refuse_files(&with_tokenizer(b"GGUF\x07\0\0\0".to_vec()), code::GGUF);
    refuse_files(&with_tokenizer(gguf("llama", 0.5)[..3000].to_vec()), code::TRUNCATED);
    refuse_files(&with_tokenizer(b"a text".to_vec()), code::GGUF);
    refuse_files(&with_file(with_tokenizer(gguf("llama", 0.5)), "config.json", "[]"), code::CONFIG);
    let other_size = with_file(with_tokenizer(gguf("llama", 0.5)), "config.json", r#"{"hidden_size":16}"#);
    assert!(refuse_files(&other_size, code::CONFIG).message.contains("`hidden_size` of 8"));
    let two = with_file(with_tokenizer(gguf("llama", 0.5)), "second.gguf", gguf("llama", 0.5));
    assert!(refuse_files(&two, code::CONFIG).message.contains("second.gguf"));
}

#[test]
fn a_vocabulary_beyond_the_embedding_is_refused_with_its_token() {
    let files = || read_files(base_folder(8).path());
    Quarantine::new().inspect_files(&with_file(files(), "tokenizer.json", tokenizer(16))).unwrap();
    let rejection = refuse_files(&with_file(files(), "tokenizer.json", tokenizer(17)), code::VOCABULARY);
    for words in ["below 16", "`<added>`", "number 16"] {
        assert!(rejection.message.contains(words), "{rejection}");
    }
    let list: Vec<Value> = (0..20).map(|i| json!([format!("t{i}"), -0.5])).collect();
    let unigram = json!({ "model": { "type": "Unigram", "vocab": list } }).to_string();
    refuse_files(&with_file(files(), "tokenizer.json", unigram), code::VOCABULARY);
    let high = json!({ "added_tokens": null, "model": { "vocab": { "a": 3, "far": 1u64 << 40, "b": 1 } } }).to_string();
    assert!(refuse_files(&with_file(files(), "tokenizer.json", high), code::VOCABULARY).message.contains("`far`"));
    refuse_files(&with_file(files(), "tokenizer.json", "{}"), code::CONFIG);
}

/// The sound checkpoint in shards of at most 200 bytes, with its index.
fn shards() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let config = base_config(8);
    let shapes = FamilyConfig::from_json(&config).unwrap().tensor_shapes();
    let tensors = shapes.into_iter().map(|(name, shape)| (name, zeros(&shape)));
    save_checkpoint(dir.path(), &config, tensors, 1500).unwrap();
    read_files(dir.path())
}

#[test]
fn shards_and_index_that_do_not_belong_together_are_refused() {
    let files = shards();
    let shard = files.iter().map(|(name, _)| name.clone()).find(|name| name.starts_with("model-")).unwrap();
    Quarantine::new().inspect_files(&files).unwrap();
    let without = |gone: &str| -> Files { files.iter().filter(|(name, _)| name != gone).cloned().collect() };
    let rejection = refuse_files(&without(&shard), code::MISSING_FILE);
    assert_eq!(rejection.at.as_deref(), Some(shard.as_str()));
    refuse_files(&without("model.safetensors.index.json"), code::MISSING_FILE);
    let bytes = |wanted: &str| files.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
    let rejection =
        refuse_files(&with_file(files.clone(), "model-00099-of-00099.safetensors", bytes(&shard)), code::CONFIG);
    assert!(rejection.message.contains("name every file"), "{rejection}");
    let mut index: Value = serde_json::from_slice(&bytes("model.safetensors.index.json")).unwrap();
    index["weight_map"]["model.extra.weight"] = json!(shard);
    let lying = with_file(files.clone(), "model.safetensors.index.json", index.to_string());
    assert_eq!(refuse_files(&lying, code::TENSOR_MISMATCH).at.as_deref(), Some("model.extra.weight"));
    let outside = r#"{"weight_map":{"a":"../model.safetensors"}}"#;
    refuse_files(&with_file(files.clone(), "model.safetensors.index.json", outside), code::CONFIG);
}

#[test]
fn a_configuration_that_contradicts_the_tensors_or_itself_is_refused() {
    let refuse = |name: &str, value: Value, code: &str| refuse_files(&with_config(&[(name, value)]), code);
    assert!(refuse("hidden_size", json!(16), code::TENSOR_MISMATCH).message.contains("shape [16, 16]"));
    refuse("vocab_size", json!(17), code::TENSOR_MISMATCH);
    refuse("num_hidden_layers", json!(3), code::TENSOR_MISMATCH);
    refuse("num_hidden_layers", json!(1), code::TENSOR_MISMATCH);
    for absurd in [json!(0), json!(-1), json!(1u64 << 40), json!(u64::MAX), json!("8"), json!(null), json!(1e300)] {
        for name in ["hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]
        {
            refuse(name, absurd.clone(), code::CONFIG);
        }
    }
    assert!(refuse("model_type", json!("falcon"), code::UNSUPPORTED).message.contains("`falcon`"));
    let files = || read_files(base_folder(8).path());
    refuse_files(&with_file(files(), "config.json", "[]"), code::CONFIG);
    let twice = base_config(8).to_string().replacen('{', r#"{"hidden_size":4,"#, 1);
    assert!(
        refuse_files(&with_file(files(), "config.json", twice), code::CONFIG).message.contains("`hidden_size` twice")
    );
}

/// The sound checkpoint of tied embeddings that stores its head a second time, filled with this number.
fn tied_with_head(fill: f32) -> Files {
    let mut config = base_config(8);
    config["tie_word_embeddings"] = json!(true);
    let dir = tempfile::tempdir().unwrap();
    let shapes = FamilyConfig::from_json(&config).unwrap().tensor_shapes();
    let head = Tensor::full(fill, (16, 8), &Device::Cpu).unwrap();
    let tensors = shapes.into_iter().map(|(name, shape)| (name, zeros(&shape)));
    save_checkpoint(dir.path(), &config, tensors.chain([("lm_head.weight".into(), head)]), u64::MAX).unwrap();
    read_files(dir.path())
}

#[test]
fn a_tied_head_that_is_stored_twice_must_be_equal() {
    Quarantine::new().inspect_files(&tied_with_head(0.0)).unwrap();
    let rejection = refuse_files(&tied_with_head(0.5), code::TENSOR_MISMATCH);
    assert_eq!(rejection.at.as_deref(), Some("lm_head.weight"));
    assert!(rejection.message.contains("tie_word_embeddings"), "{rejection}");
}

#[test]
fn element_types_that_no_weights_come_in_are_refused() {
    let shapes = FamilyConfig::from_json(&base_config(8)).unwrap().tensor_shapes();
    for (dtype, bytes) in [("F64", 8), ("I64", 8), ("I8", 1), ("BOOL", 1)] {
        let tensors: Vec<(&str, &str, &[usize], Vec<u8>)> = shapes
            .iter()
            .map(|(name, shape)| {
                let (dtype, bytes) = if name.contains("norm") { (dtype, bytes) } else { ("F32", 4) };
                (name.as_str(), dtype, shape.as_slice(), vec![0; bytes * shape.iter().product::<usize>()])
            })
            .collect();
        let rejection = refuse_files(&with_weights(Value::Null, &tensors), code::DTYPE);
        assert!(rejection.message.contains(dtype) && rejection.message.contains("norm"), "{rejection}");
    }
}

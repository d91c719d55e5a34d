//! GGUF files that another writer made, files with one defect each, and files that are mostly noise.

// The lint's exception for tests does not reach the functions that tests share.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Value as Field};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::checkpoint::{open_checkpoint, read_config, save_checkpoint};
use crate::families::{FamilyConfig, check_tensors};
use crate::shared_data::shared_data;

/// A checkpoint of two blocks whose rows are whole blocks of 32, with numbers that all differ.
fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 10, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 48,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    })
}

fn checkpoint_of(config: &Value) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0.0f32;
    let tensors = FamilyConfig::from_json(config).unwrap().tensor_shapes().into_iter().map(|(name, shape)| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                next += 1.0;
                (next * 0.37).sin()
            })
            .collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    });
    save_checkpoint(dir.path(), config, tensors, u64::MAX).unwrap();
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    (dir, checkpoint)
}

/// The converter's renaming, the other way round than `llama::rename`.
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

/// The converter's `permute`: `reshape(heads, 2, half, in).swapaxes(1, 2).reshape(out, in)`.
fn permute(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = weight.dims2().unwrap();
    let split = weight.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, width)).unwrap()
}

fn fields(config: &Value) -> Vec<(String, Field)> {
    let size = |key: &str| Field::U32(config[key].as_u64().unwrap() as u32);
    let mut fields = vec![
        ("general.architecture".into(), Field::String("llama".into())),
        ("general.name".into(), Field::String("a model".into())),
        ("llama.context_length".into(), size("max_position_embeddings")),
        ("llama.embedding_length".into(), size("hidden_size")),
        ("llama.block_count".into(), size("num_hidden_layers")),
        ("llama.feed_forward_length".into(), size("intermediate_size")),
        ("llama.attention.head_count".into(), size("num_attention_heads")),
        ("llama.attention.head_count_kv".into(), size("num_key_value_heads")),
        ("llama.attention.key_length".into(), size("head_dim")),
        ("llama.attention.layer_norm_rms_epsilon".into(), Field::F32(config["rms_norm_eps"].as_f64().unwrap() as f32)),
        ("llama.rope.freq_base".into(), Field::F32(10_000.0)),
        ("llama.rope.dimension_count".into(), size("head_dim")),
        ("tokenizer.ggml.bos_token_id".into(), size("bos_token_id")),
        ("tokenizer.ggml.eos_token_id".into(), size("eos_token_id")),
    ];
    let tokens = (0..10).map(|i| Field::String(format!("token {i}"))).collect();
    fields.push(("tokenizer.ggml.tokens".into(), Field::Array(tokens)));
    fields.push(("tokenizer.ggml.scores".into(), Field::Array(vec![Field::F32(0.5); 10])));
    fields
}

/// Tensors of a checkpoint as the converter writes them: matrices in this type, vectors in float32.
fn tensors(checkpoint: &Checkpoint, dtype: GgmlDType) -> Vec<(String, QTensor)> {
    let heads = |key: &str| checkpoint.config_json[key].as_u64().unwrap() as usize;
    let convert = |name: &str| {
        let mut tensor = checkpoint.load(name, &Device::Cpu).unwrap();
        if name.ends_with("q_proj.weight") {
            tensor = permute(&tensor, heads("num_attention_heads"));
        }
        if name.ends_with("k_proj.weight") {
            tensor = permute(&tensor, heads("num_key_value_heads"));
        }
        let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype };
        (name_in_gguf(name), QTensor::quantize(&tensor, dtype).unwrap())
    };
    checkpoint.names().map(convert).collect()
}

fn write(fields: &[(String, Field)], tensors: &[(String, QTensor)]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = Cursor::new(Vec::new());
    gguf_file::write(&mut out, &fields, &tensors).unwrap();
    out.into_inner()
}

/// A small GGUF file of a llama, made by candle's writer.
fn sound_file() -> Vec<u8> {
    let (_dir, checkpoint) = checkpoint_of(&config());
    write(&fields(&config()), &tensors(&checkpoint, GgmlDType::Q8_0))
}

fn open(bytes: &[u8]) -> Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model-q8.gguf"), bytes).unwrap();
    open_checkpoint(dir.path())
}

fn read(bytes: &[u8]) -> Result<GgufHeader, HeaderError> {
    read_gguf(bytes, bytes.len() as u64, &HeaderLimits::default())
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares every tensor of a checkpoint with what a folder holding its GGUF file opens as.
fn compare(original: &Checkpoint, dir: &Path, tolerance: f32) {
    let opened = open_checkpoint(dir).unwrap();
    let family = FamilyConfig::from_json(&opened.config_json).unwrap();
    check_tensors(&family, &opened).unwrap();
    assert_eq!(opened.names().collect::<Vec<_>>(), original.names().collect::<Vec<_>>());
    for name in original.names() {
        let [expected, found] = [original, &opened].map(|c| numbers(&c.load(name, &Device::Cpu).unwrap()));
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let error = expected.iter().zip(&found).fold(0f32, |worst, (x, y)| worst.max((x - y).abs()));
        assert!(error <= tolerance * largest, "{name}: {error} of {largest}");
    }
}

#[test]
fn a_llama_comes_back_as_the_checkpoint_it_was_made_from() {
    let (dir, original) = checkpoint_of(&config());
    let to = tempfile::tempdir().unwrap();
    for (dtype, storage, tolerance) in [
        (GgmlDType::F32, "gguf f32", 0.0),
        (GgmlDType::F16, "gguf f16 + f32", 5e-4),
        (GgmlDType::Q8_0, "gguf q8_0", 5e-3),
        (GgmlDType::Q4_1, "gguf q4_1", 0.1),
        (GgmlDType::Q4_0, "gguf q4_0", 0.13),
    ] {
        std::fs::write(to.path().join("model.gguf"), write(&fields(&config()), &tensors(&original, dtype))).unwrap();
        compare(&original, to.path(), tolerance);
        let opened = open_checkpoint(to.path()).unwrap();
        assert_eq!(opened.storage(), storage);
        for (field, value) in config().as_object().unwrap() {
            assert_eq!(&opened.config_json[field], value, "{field}");
        }
        assert_eq!(read_config(to.path()).unwrap().unwrap(), opened.config_json);
    }
    assert_eq!(read_config(dir.path()).unwrap().unwrap(), config());
}

#[test]
fn a_widened_block_format_is_written_out_as_bfloat16_and_a_plain_one_as_it_was() {
    let opened = open(&sound_file()).unwrap();
    use crate::checkpoint::header::Dtype;
    assert_eq!(opened.export_dtype("model.layers.0.mlp.up_proj.weight"), Some(Dtype::Bf16));
    assert_eq!(opened.export_dtype("model.norm.weight"), Some(Dtype::F32));
    assert_eq!(opened.export_dtype("elsewhere"), None);
}

#[test]
fn the_reference_llama_comes_back_through_gguf() {
    for family in ["llama", "llama_tied"] {
        let Some(golden) = shared_data(&format!("golden/{family}")) else { continue };
        let original = open_checkpoint(&golden).unwrap();
        let family = FamilyConfig::from_json(&original.config_json).unwrap();
        let to = tempfile::tempdir().unwrap();
        let bytes = write(&fields(&original.config_json), &tensors(&original, GgmlDType::F32));
        std::fs::write(to.path().join("golden.gguf"), bytes).unwrap();
        compare(&original, to.path(), 0.0);
        let opened = FamilyConfig::from_json(&open_checkpoint(to.path()).unwrap().config_json).unwrap();
        assert_eq!(opened.tensor_shapes(), family.tensor_shapes());
    }
}

#[test]
fn the_slower_frequencies_of_llama_3_are_recognised_and_any_others_refused() {
    let (_dir, original) = checkpoint_of(&config());
    let table = |divisors: Vec<f32>| {
        let mut tensors = tensors(&original, GgmlDType::F32);
        let table = Tensor::new(divisors, &Device::Cpu).unwrap();
        tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&table, GgmlDType::F32).unwrap()));
        let mut fields = fields(&config());
        fields.retain(|(key, _)| key != "llama.rope.freq_base");
        fields.push(("llama.rope.freq_base".into(), Field::F32(500_000.0)));
        open(&write(&fields, &tensors))
    };
    // Heads of 8 turn at 1, 0.0376, 0.00141 and 0.0000532: two are fast, one is between, one is slow.
    let turns = 8192.0 * 500_000f64.powf(-0.5) / std::f64::consts::TAU;
    let blend = (turns - 1.0) / 3.0;
    let between = 1.0 / ((1.0 - blend) / 32.0 + blend);
    let opened = table(vec![1.0, 1.0, between as f32, 32.0]).unwrap();
    let scaling = &opened.config_json["rope_scaling"];
    assert_eq!((scaling["rope_type"].as_str(), scaling["factor"].as_f64()), (Some("llama3"), Some(32.0)));
    assert!(opened.shape("rope_freqs.weight").is_none());
    FamilyConfig::from_json(&opened.config_json).unwrap();
    for other in [vec![1.0, 2.0, between as f32, 32.0], vec![1.0, 1.0, 32.0], vec![f32::NAN; 4]] {
        let error = table(other).unwrap_err().to_string();
        assert!(error.contains("rope_freqs.weight"), "{error}");
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let (_dir, original) = checkpoint_of(&config());
    let tensors = tensors(&original, GgmlDType::F32);
    let refuse = |key: &str, value: Field, word: &str| {
        let mut fields = fields(&config());
        fields.retain(|(other, _)| other != key);
        fields.push((key.into(), value));
        let error = open(&write(&fields, &tensors)).unwrap_err().to_string();
        assert!(error.contains(word), "{key}: {error}");
    };
    let text = |text: &str| Field::String(text.into());
    refuse("general.architecture", text("qwen2moe"), "`qwen2moe`");
    refuse("general.architecture", Field::U32(1), "general.architecture");
    refuse("general.type", text("adapter"), "adapter");
    refuse("split.count", Field::U16(3), "several parts");
    refuse("llama.expert_count", Field::U32(8), "mixture of experts");
    refuse("llama.rope.scaling.type", text("yarn"), "yarn");
    refuse("llama.attention.sliding_window", Field::U32(4096), "sliding_window");
    refuse("llama.attention.head_count", Field::U32(0), "head_count");
    refuse("llama.attention.head_count", Field::U32(3), "blk.0.attn_q");
    refuse("llama.attention.head_count_kv", Field::Array(vec![Field::U32(1)]), "head_count_kv");
    refuse("llama.rope.dimension_count", Field::U32(4), "dimension_count");
    refuse("llama.block_count", Field::U64(1 << 40), "block_count");
    refuse("llama.attention.layer_norm_rms_epsilon", Field::F32(f32::NAN), "layer_norm_rms_epsilon");
}

#[test]
fn tensors_that_are_none_of_a_llama_are_refused() {
    let (_dir, original) = checkpoint_of(&config());
    let vector = || QTensor::quantize(&Tensor::zeros(32, DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    for name in ["blk.0.attn_q.bias", "blk.01.attn_norm.weight", "blk.x.attn_norm.weight", "v.patch_embd.weight"] {
        let mut tensors = tensors(&original, GgmlDType::F32);
        tensors.push((name.into(), vector()));
        let error = open(&write(&fields(&config()), &tensors)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn files_beside_it_must_not_say_another_thing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.gguf"), sound_file()).unwrap();
    let with_config = |text: &str| {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        open_checkpoint(dir.path())
    };
    with_config(r#"{"model_type":"llama"}"#).unwrap();
    with_config(r#"{"hidden_size":32,"num_hidden_layers":2}"#).unwrap();
    let error = with_config(r#"{"hidden_size":64}"#).unwrap_err().to_string();
    assert!(error.contains("`hidden_size` of 32") && error.contains("found 64"), "{error}");
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("b.gguf"), b"").unwrap();
    assert!(open_checkpoint(dir.path()).unwrap_err().to_string().contains("`b.gguf` beside it"));
    std::fs::rename(dir.path().join("b.gguf"), dir.path().join("model.safetensors")).unwrap();
    assert!(open_checkpoint(dir.path()).unwrap_err().to_string().contains("`model.safetensors` beside it"));
}

/// Bytes of a header, piece by piece.
#[derive(Clone, Default)]
struct Header(Vec<u8>);

impl Header {
    fn new(tensors: u64, keys: u64) -> Self {
        Self(MAGIC.to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut longer = self.u64(text.len() as u64);
        longer.0.extend(text.as_bytes());
        longer
    }

    /// A float32 vector of so many elements at this place of the data.
    fn vector(self, name: &str, elements: u64, start: u64) -> Self {
        self.text(name).u32(1).u64(elements).u32(0).u64(start)
    }

    /// Pads to 32 bytes and adds the data.
    fn data(mut self, bytes: usize) -> Vec<u8> {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + bytes, 0);
        self.0
    }
}

#[test]
fn each_defect_has_its_own_error() {
    let expect = |name: &str, bytes: &[u8], test: fn(&HeaderError) -> bool| {
        let error = read(bytes).expect_err(name);
        assert!(test(&error), "{name}: {error}");
    };
    let one = || Header::new(1, 0).vector("a", 4, 0);
    read(&one().data(16)).unwrap();
    read(&one().data(32)).unwrap();
    let mut magic = one().data(16);
    magic[0] = b'g';
    expect("another magic", &magic, |e| matches!(e, HeaderError::Field { at: 0, .. }));
    let mut swapped = one().data(16);
    swapped[4..8].reverse();
    expect("big-endian", &swapped, |e| e.to_string().contains("big-endian"));
    let mut version = one().data(16);
    version[4] = 9;
    expect("a version to come", &version, |e| e.to_string().contains("version 9"));
    expect("nothing", b"", |e| matches!(e, HeaderError::Truncated { .. }));
    expect("no tensors", &Header::new(0, 0).data(0), |e| matches!(e, HeaderError::NoTensors));
    expect("too many", &Header::new(1 << 40, 0).data(0), |e| matches!(e, HeaderError::TooManyTensors { .. }));
    expect("many keys", &Header::new(1, 1 << 40).data(0), |e| matches!(e, HeaderError::Field { .. }));
    expect("cut data", &one().data(15), |e| matches!(e, HeaderError::Truncated { .. }));
    expect("a cut table", &one().0[..40], |e| matches!(e, HeaderError::Truncated { .. }));
    expect("bytes left over", &one().data(65), |e| matches!(e, HeaderError::Hole { .. }));
    let two = |start: u64, name: &str| Header::new(2, 0).vector("a", 8, 0).vector(name, 8, start).data(96);
    expect("one name twice", &two(32, "a"), |e| matches!(e, HeaderError::DuplicateName(_)));
    expect("shared bytes", &two(0, "b"), |e| matches!(e, HeaderError::Overlap { .. }));
    expect("a gap", &two(64, "b"), |e| matches!(e, HeaderError::Hole { .. }));
    expect("no name", &Header::new(1, 0).vector("", 4, 0).data(16), |e| matches!(e, HeaderError::BadName { .. }));
    let long = Header::new(1, 0).u64(1 << 62).data(100);
    expect("a name of exabytes", &long, |e| matches!(e, HeaderError::Field { .. }));
    let shape = |extents: &[u64], kind: u32| {
        let header = Header::new(1, 0).text("a").u32(extents.len() as u32);
        extents.iter().fold(header, |header, extent| header.u64(*extent)).u32(kind).u64(0).data(64)
    };
    expect("no dimensions", &shape(&[], 0), |e| matches!(e, HeaderError::BadShape { .. }));
    expect("five dimensions", &shape(&[1; 5], 0), |e| matches!(e, HeaderError::BadShape { .. }));
    expect("no elements", &shape(&[4, 0], 0), |e| matches!(e, HeaderError::BadShape { .. }));
    expect("half a block", &shape(&[16, 2], 8), |e| matches!(e, HeaderError::BadShape { .. }));
    expect("beyond 64 bits", &shape(&[1 << 40, 1 << 40], 0), |e| matches!(e, HeaderError::BadShape { .. }));
    expect("bytes beyond 64 bits", &shape(&[1 << 62], 0), |e| matches!(e, HeaderError::BadShape { .. }));
    expect(
        "another format",
        &shape(&[256], 23),
        |e| matches!(e, HeaderError::GgmlType { found, .. } if found == "IQ4_XS"),
    );
    let key = |kind: u32| Header::new(1, 1).text("k").u32(kind);
    let after = |header: Header| header.vector("a", 4, 0).data(16);
    read(&after(key(8).text(&"long".repeat(500)))).unwrap();
    expect("a text past the end", &key(8).u64(u64::MAX).data(16), |e| matches!(e, HeaderError::Truncated { .. }));
    expect("a list past the end", &key(9).u32(10).u64(u64::MAX).data(16), |e| {
        matches!(e, HeaderError::Truncated { .. })
    });
    expect("texts past the end", &key(9).u32(8).u64(u64::MAX).data(64), |e| matches!(e, HeaderError::Truncated { .. }));
    expect("a list of lists", &after(key(9).u32(9).u64(1)), |e| matches!(e, HeaderError::Field { .. }));
    expect("an unknown value", &after(key(77)), |e| matches!(e, HeaderError::Field { .. }));
    let twice = Header::new(1, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(2);
    expect("one key twice", &after(twice), |e| e.to_string().contains("`k` twice"));
    for alignment in [0, 7, 48, 1 << 20] {
        let header = Header::new(1, 1).text("general.alignment").u32(4).u32(alignment);
        expect("a bad alignment", &after(header), |e| e.to_string().contains("general.alignment"));
    }
}

#[test]
fn a_block_format_that_is_not_read_is_refused_by_name_with_what_to_upload() {
    let header = Header::new(1, 0).text("blk.0.attn_q.weight").u32(1).u64(256).u32(23).u64(0);
    let error = open(&header.data(136)).unwrap_err();
    assert!(matches!(&error, ModelError::Quantised { scheme, .. } if scheme == "GGUF IQ4_XS"), "{error}");
    let text = error.to_string();
    assert!(text.contains("blk.0.attn_q.weight") && text.contains("model-q8.gguf") && text.contains(UPLOAD_INSTEAD));
}

/// Counts the bytes it hands out and refuses to hand out more than a file of its length has.
struct Endless {
    given: u64,
    byte: u8,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.fill(self.byte);
        self.given += buffer.len() as u64;
        assert!(self.given < 64 << 20, "read past every limit");
        Ok(buffer.len())
    }
}

#[test]
fn a_header_in_a_file_of_terabytes_is_read_no_further_than_its_limit() {
    for byte in [0, 1] {
        let list = Header::new(1, 1).text("k").u32(9).u32(8).u64(1 << 50);
        let reader = list.0.chain(Endless { given: 0, byte });
        let error = read_gguf(reader, 1 << 45, &HeaderLimits::default()).unwrap_err();
        assert!(matches!(error, HeaderError::TooLarge { .. } | HeaderError::Truncated { .. }), "{error}");
    }
}

/// `Vec<u8>` is no reader by itself.
trait Chain {
    fn chain(self, more: Endless) -> std::io::Chain<Cursor<Vec<u8>>, Endless>;
}

impl Chain for Vec<u8> {
    fn chain(self, more: Endless) -> std::io::Chain<Cursor<Vec<u8>>, Endless> {
        Read::chain(Cursor::new(self), more)
    }
}

/// Whatever a file says, opening it ends, and every tensor that it then has can be loaded and is no larger
/// than the densest block format (Q2_K: 84 bytes for 256 numbers) makes it.
fn survive(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    if let Ok(checkpoint) = open_checkpoint(dir.path()) {
        assert!(checkpoint.count_scalars() * 84 <= bytes.len() as u64 * 256);
        checkpoint.names().for_each(|name| drop(checkpoint.load(name, &Device::Cpu).unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_behind_the_magic_never_panic(
        version in 0u32..5, tensors in 0u64..4, keys in 0u64..4, bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let header = Header(MAGIC.to_vec()).u32(version).u64(tensors).u64(keys);
        survive(&[header.0, bytes].concat());
    }

    #[test]
    fn a_damaged_file_is_opened_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = SOUND.with(|bytes| bytes.clone());
        for (place, kind, value) in changes {
            // Most changes should hit the header.
            let length = if kind % 4 == 0 { bytes.len() } else { bytes.len().min(2200) };
            let Some(at) = (length > 0).then(|| place.index(length)) else { break };
            match kind % 8 {
                0 => bytes.truncate(at),
                1 => bytes[at] = 0xff,
                2 => bytes[at] ^= 1 << (value % 8),
                3 => bytes.extend_from_within(at.saturating_sub(usize::from(value))..at),
                _ => bytes[at] = value,
            }
        }
        survive(&bytes);
    }
}

thread_local! {
    static SOUND: Vec<u8> = sound_file();
}

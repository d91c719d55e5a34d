//! Safetensors files with one defect each, and configurations that do not fit their weights.

use antigen::intake::code;
use antigen_models::checkpoint::write_tensor_file;
use serde_json::json;

use super::*;

/// The adapter with its weights rewritten: the header as text (which may change its length) and the data.
fn with_header(change: impl Fn(&str) -> String) -> Files {
    let files = adapter_files();
    let bytes = &files[1].1;
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = change(std::str::from_utf8(&bytes[8..8 + length]).unwrap());
    let mut changed = (header.len() as u64).to_le_bytes().to_vec();
    changed.extend_from_slice(header.as_bytes());
    changed.extend_from_slice(&bytes[8 + length..]);
    with_file(files, "adapter_model.safetensors", changed)
}

/// The adapter with its weights' bytes changed in place.
fn with_bytes(change: impl Fn(&mut Vec<u8>)) -> Files {
    let mut files = adapter_files();
    change(&mut files[1].1);
    files
}

/// The adapter with these tensors as its weights.
fn with_tensors(tensors: &[(&str, &[usize])]) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    let tensors: Vec<_> =
        tensors.iter().map(|(name, shape)| (format!("base_model.model.{name}"), zeros(shape))).collect();
    write_tensor_file(&path, &tensors, None).unwrap();
    with_file(adapter_files(), "adapter_model.safetensors", fs::read(path).unwrap())
}

#[test]
fn a_header_of_one_gigabyte_is_refused_by_its_declared_length() {
    let rejection =
        refuse_files(&with_bytes(|b| b[..8].copy_from_slice(&(1u64 << 30).to_le_bytes())), code::HEADER_TOO_LARGE);
    assert!(rejection.message.contains("1073741824"), "{rejection}");
    assert_eq!(rejection.at.as_deref(), Some("adapter_model.safetensors"));
}

#[test]
fn a_truncated_file_is_refused() {
    refuse_files(&with_bytes(|bytes| bytes.truncate(bytes.len() - 1)), code::TRUNCATED);
    refuse_files(&with_bytes(|bytes| bytes.truncate(100)), code::TRUNCATED);
    refuse_files(&with_bytes(|bytes| bytes.truncate(3)), code::TRUNCATED);
    refuse_files(&with_bytes(Vec::clear), code::TRUNCATED);
}

#[test]
fn a_header_that_two_readers_could_read_differently_is_refused() {
    let duplicate =
        |header: &str| header.replace("layers.1.self_attn.q_proj.lora_A", "layers.0.self_attn.q_proj.lora_A");
    refuse_files(&with_header(duplicate), code::DUPLICATE_TENSOR);
    let overlap = |header: &str| header.replace("[64,128]", "[60,124]");
    refuse_files(&with_header(overlap), code::TENSOR_OVERLAP);
    refuse_files(&with_bytes(|bytes| bytes.push(0)), code::TENSOR_HOLE);
    let hole = |header: &str| header.replace("[64,128]", "[64,120]").replacen("[8,2]", "[7,2]", 1);
    refuse_files(&with_header(hole), code::TENSOR_HOLE);
}

#[test]
fn a_header_that_is_no_description_of_tensors_is_refused() {
    refuse_files(&with_bytes(|bytes| bytes[60] = 0xff), code::NAME_NOT_UTF8);
    refuse_files(&with_header(|header| header.replacen('{', "[", 1)), code::HEADER_NOT_JSON);
    refuse_files(&with_header(|header| header.replace("\"dtype\"", "\"type\"")), code::HEADER_NOT_JSON);
    refuse_files(&with_header(|header| header.replace("F32", "F33")), code::DTYPE);
    refuse_files(&with_header(|header| header.replace("F32", "I32")), code::DTYPE);
    refuse_files(&with_header(|header| header.replace("[2,8]", "[2,9]")), code::TENSOR_SIZE);
    refuse_files(&with_header(|header| header.replacen("base_model", &"n".repeat(600), 1)), code::TENSOR_NAME);
    let empty = [8u64.to_le_bytes().as_slice(), b"{}      "].concat();
    refuse_files(&with_file(adapter_files(), "adapter_model.safetensors", empty), code::NO_TENSORS);
    let mut quarantine = Quarantine::new();
    quarantine.limits.max_tensors = 3;
    quarantine.expect_refusal(quarantine.inspect_files(&adapter_files()), code::TOO_MANY_TENSORS);
}

#[test]
fn weights_that_are_no_numbers_are_refused_with_their_tensor() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let files = with_bytes(|bytes| {
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        });
        let rejection = refuse_files(&files, code::NOT_FINITE);
        assert!(rejection.at.as_ref().unwrap().contains("layers.1.self_attn.q_proj.lora_B"), "{rejection}");
        assert!(rejection.message.contains("element 15"), "{rejection}");
    }
}

#[test]
fn tensors_that_the_configuration_does_not_speak_of_are_refused() {
    let (a, b) = ("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight");
    refuse_files(&with_tensors(&[(a, &[3, 8]), (b, &[8, 3])]), code::TENSOR_MISMATCH);
    refuse_files(&with_tensors(&[(a, &[2, 8])]), code::TENSOR_MISMATCH);
    refuse_files(&with_tensors(&[(a, &[2, 8]), (b, &[8, 2, 1])]), code::TENSOR_MISMATCH);
    let dora = "model.layers.0.self_attn.q_proj.lora_magnitude_vector";
    refuse_files(&with_tensors(&[(a, &[2, 8]), (b, &[8, 2]), (dora, &[8])]), code::TENSOR_MISMATCH);
}

#[test]
fn an_impossible_configuration_is_refused() {
    let rejection = refuse_files(&with_field("r", json!(0)), code::RANK_ZERO);
    assert_eq!(rejection.at.as_deref(), Some("adapter_config.json"));
    refuse_files(&with_field("r", json!("two")), code::CONFIG);
    refuse_files(&with_field("lora_alpha", json!(null)), code::CONFIG);
    refuse_files(&with_file(adapter_files(), "adapter_config.json", "[]"), code::CONFIG);
    let rejection = refuse_files(&with_field("use_dora", json!(true)), code::UNSUPPORTED);
    assert!(rejection.message.contains("use_dora"));
    assert!(refuse_files(&with_field("peft_type", json!("IA3")), code::UNSUPPORTED).message.contains("IA3"));
    let nameless = with_file(read_files(base_folder(8).path()), "config.json", "{}");
    refuse_files(&nameless, code::CONFIG);
}

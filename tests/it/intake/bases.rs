//! Artifacts held against the base that the submitter names.

use antigen::intake::{check_against_base, code};
use serde_json::json;

use super::*;

/// Inspects an upload and checks it against the base of this width.
fn check(files: &Files, hidden_size: usize) -> Result<(), Rejection> {
    let quarantine = Quarantine::new();
    let facts = quarantine.inspect_files(files).unwrap();
    check_against_base(&facts, &quarantine.unpacked(), base_folder(hidden_size).path())
}

#[test]
fn an_adapter_fits_its_own_base_and_no_other() {
    check(&adapter_files(), 8).unwrap();
    let rejection = check(&adapter_files(), 16).unwrap_err();
    assert_eq!(rejection.code, code::WRONG_BASE);
    assert!(rejection.message.contains("16") && rejection.message.contains("found 8"), "{rejection}");
}

#[test]
fn a_real_adapter_fits_its_own_base() {
    let (Some(zoo), Some(golden)) = (shared("peer/zoo"), shared("golden/llama")) else { return };
    let quarantine = Quarantine::new();
    let facts = quarantine.inspect_files(&read_files(&zoo.join("vpi-refusal"))).unwrap();
    check_against_base(&facts, &quarantine.unpacked(), &zoo.join("base")).unwrap();
    let rejection = check_against_base(&facts, &quarantine.unpacked(), &golden).unwrap_err();
    assert_eq!(rejection.code, code::WRONG_BASE);
}

#[test]
fn target_modules_that_the_base_does_not_have_are_refused() {
    let rejection = check(&with_field("target_modules", json!(["q_proj", "c_attn"])), 8).unwrap_err();
    assert_eq!((rejection.code, rejection.at.as_deref()), (code::UNKNOWN_TARGET, Some("c_attn")));
    // Known to the base, but the file has no factors for it.
    let rejection = check(&with_field("target_modules", json!(["q_proj", "v_proj"])), 8).unwrap_err();
    assert_eq!(rejection.code, code::TENSOR_MISMATCH);
    assert!(rejection.at.unwrap().contains("v_proj"));
}

#[test]
fn a_whole_model_needs_no_base_but_a_tokenizer_of_its_own() {
    let files = read_files(base_folder(8).path());
    let rejection = check(&files, 16).unwrap_err();
    assert_eq!((rejection.code, rejection.at.as_deref()), (code::MISSING_FILE, Some("tokenizer.json")));
}

#[test]
fn a_tokenizer_of_more_tokens_than_the_model_is_refused() {
    let world = tempfile::tempdir().unwrap();
    let world = antigen::worker::materialise_builtin(world.path()).unwrap();
    let mut files = read_files(base_folder(8).path());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        files.push((name.to_owned(), std::fs::read(world.join(name)).unwrap()));
    }
    let rejection = refuse_files(&files, code::VOCABULARY);
    assert_eq!(rejection.at.as_deref(), Some("tokenizer.json"));
}

#[test]
fn a_checkpoint_that_is_not_what_its_configuration_says_is_refused() {
    let files = read_files(base_folder(8).path());
    let with_config = |name: &str, value: Value| {
        let mut config = base_config(8);
        config[name] = value;
        with_file(files.clone(), "config.json", config.to_string())
    };
    assert!(refuse_files(&with_config("model_type", json!("falcon")), code::UNSUPPORTED).message.contains("falcon"));
    assert!(refuse_files(&with_config("intermediate_size", json!(13)), code::TENSOR_MISMATCH).message.contains("13"));
    refuse_files(&with_config("num_hidden_layers", json!(1)), code::TENSOR_MISMATCH);
    refuse_files(&with_config("num_hidden_layers", json!(3)), code::TENSOR_MISMATCH);
    refuse_files(&with_config("num_hidden_layers", json!(1u64 << 60)), code::CONFIG);
    refuse_files(&with_config("hidden_size", json!("8")), code::CONFIG);
}

#[test]
fn a_base_that_cannot_be_opened_is_no_fault_of_the_upload() {
    let quarantine = Quarantine::new();
    let facts = quarantine.inspect_files(&adapter_files()).unwrap();
    let empty = tempfile::tempdir().unwrap();
    assert!(check_against_base(&facts, &quarantine.unpacked(), empty.path()).unwrap_err().is_ours());
}

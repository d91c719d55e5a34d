//! Adapter or checkpoint, and whether its parts agree with each other. The base is not known here yet.

use std::collections::BTreeSet;
use std::path::Path;

use antigen_models::checkpoint::header::TensorEntry;
use antigen_models::checkpoint::{INDEX_FILE, SINGLE_FILE, open_checkpoint, read_text};
use antigen_models::error::ModelError;
use antigen_models::families::{FamilyConfig, check_tensors};
use antigen_models::lora::{PeftConfig, open_adapter_config};
use serde_json::Value;

use super::facts::{AdapterFacts, ArtifactFacts, ArtifactKind, FileFacts};
use super::limits::IntakeLimits;
use super::rejection::{Rejection, code};
use super::scan::{read_entries, scan_weights};

/// Names of the two files of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// See [`ADAPTER_CONFIG`].
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// A checkpoint's configuration.
pub const MODEL_CONFIG: &str = "config.json";

/// Decides what the received files are and checks them against each other.
///
/// # Errors
/// The first defect found.
pub fn inspect_files(dir: &Path, files: Vec<FileFacts>, limits: &IntakeLimits) -> Result<ArtifactFacts, Rejection> {
    let has = |name: &str| files.iter().any(|file| file.path == name);
    let is_adapter = has(ADAPTER_CONFIG) || has(ADAPTER_WEIGHTS);
    let is_checkpoint = files.iter().any(|file| file.path.starts_with("model") && file.path.ends_with(".safetensors"));
    match (is_adapter, is_checkpoint) {
        (true, true) => {
            let message = "expected an adapter or a checkpoint, found the weights of both: send one of them";
            Err(Rejection::new(code::LAYOUT, message))
        }
        (true, false) => inspect_adapter(dir, files, limits),
        (false, _) => inspect_checkpoint(dir, files, limits),
    }
}

fn require_file(files: &[FileFacts], name: &str) -> Result<(), Rejection> {
    match files.iter().any(|file| file.path == name) {
        true => Ok(()),
        false => {
            let found: Vec<&str> = files.iter().map(|file| file.path.as_str()).take(8).collect();
            let message = format!("expected the file `{name}`, found only: {}", found.join(", "));
            Err(Rejection::new(code::MISSING_FILE, message).at(name))
        }
    }
}

fn inspect_adapter(dir: &Path, files: Vec<FileFacts>, limits: &IntakeLimits) -> Result<ArtifactFacts, Rejection> {
    require_file(&files, ADAPTER_CONFIG)?;
    require_file(&files, ADAPTER_WEIGHTS)?;
    let json = read_json(dir, ADAPTER_CONFIG, limits)?;
    if json.get("r").and_then(Value::as_f64).is_some_and(|rank| rank == 0.0) {
        return Err(Rejection::new(code::RANK_ZERO, "expected a rank of at least 1, found `r` = 0").at(ADAPTER_CONFIG));
    }
    let config = open_adapter_config(dir).map_err(|error| reject(error, ADAPTER_CONFIG))?;
    let entries = read_entries(dir, ADAPTER_WEIGHTS, limits)?;
    check_pairs(&config, &entries)?;
    scan_weights(dir, ADAPTER_WEIGHTS, &entries)?;
    let adapter = AdapterFacts {
        rank: config.r,
        alpha: config.lora_alpha,
        target_modules: config.target_modules.to_string(),
        base_name: json.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
    };
    Ok(build_facts(ArtifactKind::Adapter, files, &[entries], Some(adapter), None))
}

/// The module and the letter (`A` or `B`) of a factor's name.
pub fn split_factor_name(name: &str) -> Option<(&str, char)> {
    let module = name.strip_prefix("base_model.model.")?;
    let module_a = module.strip_suffix(".lora_A.weight").map(|module| (module, 'A'));
    module_a.or_else(|| module.strip_suffix(".lora_B.weight").map(|module| (module, 'B')))
}

/// Every tensor is a factor of the rank that the configuration gives its layer, and has its partner.
fn check_pairs(config: &PeftConfig, entries: &[TensorEntry]) -> Result<(), Rejection> {
    let mut factors = BTreeSet::new();
    let ranks = config.rank_lookup().map_err(|error| reject(error, ADAPTER_CONFIG))?;
    for entry in entries {
        let mismatch = |message: String| Rejection::new(code::TENSOR_MISMATCH, message).at(&entry.name);
        let Some((module, letter)) = split_factor_name(&entry.name) else {
            let expected =
                "expected only `base_model.model.<layer>.lora_A.weight` and `.lora_B.weight`, found another tensor";
            return Err(mismatch(expected.into()));
        };
        let (rank, _) = ranks.find(module);
        let axis = if letter == 'A' { 0 } else { 1 };
        if entry.shape.len() != 2 || entry.shape[axis] != rank || entry.shape.contains(&0) {
            let shape = &entry.shape;
            return Err(mismatch(format!(
                "expected two dimensions with rank {rank} at dimension {axis}, found {shape:?}"
            )));
        }
        factors.insert((module, letter));
    }
    let partner = |letter: &char| if *letter == 'A' { 'B' } else { 'A' };
    match factors.iter().find(|(module, letter)| !factors.contains(&(*module, partner(letter)))) {
        None => Ok(()),
        Some((module, letter)) => {
            let message =
                format!("expected both factors of a layer, found lora_{letter} without lora_{}", partner(letter));
            Err(Rejection::new(code::TENSOR_MISMATCH, message).at(*module))
        }
    }
}

fn inspect_checkpoint(dir: &Path, files: Vec<FileFacts>, limits: &IntakeLimits) -> Result<ArtifactFacts, Rejection> {
    require_file(&files, MODEL_CONFIG)?;
    if !files.iter().any(|file| file.path == INDEX_FILE) {
        require_file(&files, SINGLE_FILE)?;
    }
    let json = read_json(dir, MODEL_CONFIG, limits)?;
    if json.get("auto_map").is_some_and(|map| !map.is_null()) {
        let message = "expected a model type that is built in, found `auto_map`, which asks for the upload's own code";
        return Err(Rejection::new(code::REMOTE_CODE, message).at(MODEL_CONFIG));
    }
    let Some(model_type) = json.get("model_type").and_then(Value::as_str).map(str::to_owned) else {
        return Err(Rejection::new(code::CONFIG, "expected `model_type` to be text, found none").at(MODEL_CONFIG));
    };
    let mut headers = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".safetensors")) {
        let entries = read_entries(dir, &file.path, limits)?;
        scan_weights(dir, &file.path, &entries)?;
        headers.push(entries);
    }
    let checkpoint = open_checkpoint(dir).map_err(|error| reject(error, INDEX_FILE))?;
    let family = FamilyConfig::from_json(&json).map_err(|error| reject(error, MODEL_CONFIG))?;
    check_tensors(&family, &checkpoint).map_err(|error| reject(error, MODEL_CONFIG))?;
    Ok(build_facts(ArtifactKind::Checkpoint, files, &headers, None, Some(model_type)))
}

fn build_facts(
    kind: ArtifactKind,
    files: Vec<FileFacts>,
    headers: &[Vec<TensorEntry>],
    adapter: Option<AdapterFacts>,
    model_type: Option<String>,
) -> ArtifactFacts {
    let entries = || headers.iter().flatten();
    let dtypes: BTreeSet<&str> = entries().map(|entry| entry.dtype.name()).collect();
    ArtifactFacts {
        kind,
        files,
        parameters: entries().map(TensorEntry::elements).sum(),
        tensors: entries().count(),
        dtypes: dtypes.into_iter().map(str::to_owned).collect(),
        adapter,
        model_type,
    }
}

fn read_json(dir: &Path, name: &str, limits: &IntakeLimits) -> Result<Value, Rejection> {
    let text = read_text(&dir.join(name), limits.max_text_bytes).map_err(|error| reject(error, name))?;
    match serde_json::from_str(&text) {
        Ok(json @ Value::Object(_)) => Ok(json),
        Ok(_) => Err(Rejection::new(code::CONFIG, "expected a JSON object, found another value").at(name)),
        Err(error) => Err(Rejection::new(code::CONFIG, format!("expected a JSON object, found: {error}")).at(name)),
    }
}

/// Tells an error of the models crate about uploaded files as a rejection. Paths of ours stay out of it.
pub fn reject(error: ModelError, file: &str) -> Rejection {
    match error {
        ModelError::Io { path, source } => Rejection::from((path.as_path(), source)),
        ModelError::Format { expected, found, .. } => {
            Rejection::new(code::CONFIG, format!("expected {expected}, found {found}")).at(file)
        }
        ModelError::Tensor { tensor, expected, found } => {
            Rejection::new(code::TENSOR_MISMATCH, format!("expected {expected}, found {found}")).at(tensor)
        }
        ModelError::Unsupported { what, instead } => {
            Rejection::new(code::UNSUPPORTED, format!("expected only what is supported, found {what}: {instead}"))
                .at(file)
        }
        ModelError::NotFinite(tensor) => Rejection::new(code::NOT_FINITE, "expected numbers, found NaN").at(tensor),
        other => Rejection::new(code::CONFIG, other.to_string()).at(file),
    }
}

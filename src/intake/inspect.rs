//! Adapter or checkpoint, and whether its parts agree with each other. The base is not known here yet.

use std::collections::BTreeSet;
use std::path::Path;

use antigen_models::checkpoint::header::TensorEntry;
use antigen_models::checkpoint::strict_json::parse_object;
use antigen_models::checkpoint::{Checkpoint, INDEX_FILE, SINGLE_FILE, open_checkpoint, read_index, read_text};
use antigen_models::error::ModelError;
use antigen_models::families::{FamilyConfig, check_tensors, check_tied_head};
use antigen_models::lora::{PeftConfig, open_adapter_config};
use serde_json::Value;

use super::facts::{AdapterFacts, ArtifactFacts, ArtifactKind, FileFacts};
use super::limits::IntakeLimits;
use super::rejection::{Rejection, code};
use super::scan::{check_dtypes, read_entries, read_gguf_header, scan_weights, scan_widened};
use super::vocabulary::check_vocabulary;

/// Names of the two files of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// See [`ADAPTER_CONFIG`].
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// A checkpoint's configuration.
pub const MODEL_CONFIG: &str = "config.json";
/// The only form of a tokenizer that is read.
pub const TOKENIZER: &str = "tokenizer.json";

/// Decides what the received files are and checks them against each other.
///
/// # Errors
/// The first defect found.
pub fn inspect_files(dir: &Path, files: Vec<FileFacts>, limits: &IntakeLimits) -> Result<ArtifactFacts, Rejection> {
    let has = |name: &str| files.iter().any(|file| file.path == name);
    let is_adapter = has(ADAPTER_CONFIG) || has(ADAPTER_WEIGHTS);
    let has_gguf = files.iter().any(|file| file.path.to_ascii_lowercase().ends_with(".gguf"));
    let is_checkpoint =
        has_gguf || files.iter().any(|file| file.path.starts_with("model") && file.path.ends_with(".safetensors"));
    match (is_adapter, is_checkpoint) {
        (true, true) => {
            let message = "expected an adapter or a checkpoint, found the weights of both: send one of them";
            Err(Rejection::new(code::LAYOUT, message))
        }
        (true, false) => inspect_adapter(dir, files, limits),
        (false, _) if has_gguf => inspect_gguf(dir, files, limits),
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
    check_dtypes(ADAPTER_WEIGHTS, &entries)?;
    check_pairs(&config, &entries)?;
    scan_weights(dir, ADAPTER_WEIGHTS, &entries)?;
    let adapter = AdapterFacts {
        rank: config.r,
        alpha: config.lora_alpha,
        target_modules: config.target_modules.to_string(),
        base_name: json.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
    };
    let dtypes: BTreeSet<&str> = entries.iter().map(|entry| entry.dtype.name()).collect();
    Ok(ArtifactFacts {
        kind: ArtifactKind::Adapter,
        files,
        parameters: entries.iter().map(TensorEntry::elements).sum(),
        tensors: entries.len(),
        dtypes: dtypes.into_iter().map(str::to_owned).collect(),
        quantised: None,
        adapter: Some(adapter),
        model_type: None,
        blocks: None,
        labels: None,
    })
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
    require_weights(dir, &files)?;
    let json = read_json(dir, MODEL_CONFIG, limits)?;
    refuse_own_code(&json)?;
    if !json.get("model_type").is_some_and(Value::is_string) {
        return Err(Rejection::new(code::CONFIG, "expected `model_type` to be text, found none").at(MODEL_CONFIG));
    }
    let mut headers = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".safetensors")) {
        headers.push((file.path.clone(), read_entries(dir, &file.path, limits)?));
    }
    let checkpoint = open_checkpoint(dir).map_err(|error| reject(error, INDEX_FILE))?;
    let family = FamilyConfig::from_json(&checkpoint.config_json).map_err(|error| reject(error, MODEL_CONFIG))?;
    let is_plain = checkpoint.is_plain();
    let weights: BTreeSet<String> = family.tensor_shapes().into_iter().map(|(name, _)| name).collect();
    for (name, entries) in headers.iter().filter(|_| is_plain) {
        // Buffers that follow from the configuration may be integers; `check_model` tells whether they are
        // any.
        check_dtypes(name, entries.iter().filter(|entry| weights.contains(&entry.name)))?;
    }
    check_model(dir, &checkpoint, &family)?;
    for (name, entries) in headers.iter().filter(|_| is_plain) {
        scan_weights(dir, name, entries)?;
    }
    if !is_plain {
        scan_widened(&checkpoint)?;
    }
    let dtypes = headers.iter().flat_map(|(_, entries)| entries).map(|entry| entry.dtype.name()).collect();
    Ok(checkpoint_facts(files, &checkpoint, &family, dtypes))
}

fn refuse_own_code(config: &Value) -> Result<(), Rejection> {
    if config["auto_map"].is_null() {
        return Ok(());
    }
    let message = "expected a model type that is built in, found `auto_map`, which asks for the upload's own code";
    Err(Rejection::new(code::REMOTE_CODE, message).at(MODEL_CONFIG))
}

/// The files of a checkpoint in safetensors: configuration, and one file or every shard that the index names.
fn require_weights(dir: &Path, files: &[FileFacts]) -> Result<(), Rejection> {
    require_file(files, MODEL_CONFIG)?;
    if !files.iter().any(|file| file.path == INDEX_FILE) {
        return require_file(files, SINGLE_FILE);
    }
    let shards = read_index(&dir.join(INDEX_FILE)).map_err(|error| reject(error, INDEX_FILE))?;
    shards.values().collect::<BTreeSet<_>>().into_iter().try_for_each(|shard| require_file(files, shard))
}

/// Configuration, tensors and tokenizer of a checkpoint against each other.
fn check_model(dir: &Path, checkpoint: &Checkpoint, family: &FamilyConfig) -> Result<(), Rejection> {
    check_tensors(family, checkpoint).map_err(|error| reject(error, MODEL_CONFIG))?;
    check_vocabulary(dir, family.vocab_size())?;
    check_tied_head(family, checkpoint).map_err(|error| reject(error, MODEL_CONFIG))
}

/// A GGUF file has its configuration in itself, but Antigen takes tokenizers only as `tokenizer.json`.
fn inspect_gguf(dir: &Path, files: Vec<FileFacts>, limits: &IntakeLimits) -> Result<ArtifactFacts, Rejection> {
    let is_gguf = |file: &&FileFacts| file.path.to_ascii_lowercase().ends_with(".gguf");
    let mut dtypes = BTreeSet::new();
    for file in files.iter().filter(is_gguf) {
        let header = read_gguf_header(dir, &file.path, limits)?;
        dtypes.extend(header.tensors.iter().map(|tensor| tensor.encoding.name));
    }
    if files.iter().any(|file| file.path == MODEL_CONFIG) {
        refuse_own_code(&read_json(dir, MODEL_CONFIG, limits)?)?;
    }
    let name = files.iter().find(is_gguf).map_or("", |file| file.path.as_str());
    let checkpoint = open_checkpoint(dir).map_err(|error| reject(error, name))?;
    require_file(&files, TOKENIZER)?;
    let family = FamilyConfig::from_json(&checkpoint.config_json).map_err(|error| reject(error, name))?;
    check_model(dir, &checkpoint, &family)?;
    scan_widened(&checkpoint)?;
    Ok(checkpoint_facts(files, &checkpoint, &family, dtypes))
}

fn checkpoint_facts(
    files: Vec<FileFacts>,
    checkpoint: &Checkpoint,
    family: &FamilyConfig,
    dtypes: BTreeSet<&str>,
) -> ArtifactFacts {
    ArtifactFacts {
        kind: ArtifactKind::Checkpoint,
        files,
        parameters: checkpoint.count_scalars(),
        tensors: checkpoint.names().count(),
        dtypes: dtypes.into_iter().map(str::to_owned).collect(),
        quantised: (!checkpoint.is_plain()).then(|| checkpoint.storage().to_owned()),
        adapter: None,
        model_type: checkpoint.config_json["model_type"].as_str().map(str::to_owned),
        blocks: Some(family.layers()),
        labels: family.sizes().labels,
    }
}

fn read_json(dir: &Path, name: &str, limits: &IntakeLimits) -> Result<Value, Rejection> {
    let text = read_text(&dir.join(name), limits.max_text_bytes).map_err(|error| reject(error, name))?;
    parse_object(&text).map_err(|found| {
        Rejection::new(code::CONFIG, format!("expected a JSON object, each key once, found {found}")).at(name)
    })
}

/// Tells an error of the models crate about uploaded files as a rejection. Paths of ours stay out of it.
pub fn reject(error: ModelError, file: &str) -> Rejection {
    match error {
        ModelError::Io { path, cause } => Rejection::from((path.as_path(), cause)),
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
        ModelError::Quantised { scheme, found, instead } => {
            let message = format!("expected weights that are read, found {scheme} ({found}): {instead}");
            Rejection::new(code::QUANTISED, message).at(file)
        }
        ModelError::NotFinite(tensor) => Rejection::new(code::NOT_FINITE, "expected numbers, found NaN").at(tensor),
        other => Rejection::new(code::CONFIG, other.to_string()).at(file),
    }
}

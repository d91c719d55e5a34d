//! Checks that an artifact was made for the base that the submitter names. Headers and configurations
//! suffice.

use std::path::Path;

use antigen_models::checkpoint::header::TensorEntry;
use antigen_models::checkpoint::open_checkpoint;
use antigen_models::families::{FamilyConfig, ModuleShape};
use antigen_models::lora::{check_adapter_tensors, open_adapter_config};
use antigen_models::{SpecialTokens, Tokenizer};

use super::facts::{ArtifactFacts, ArtifactKind};
use super::inspect::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, TOKENIZER, reject, split_factor_name};
use super::limits::IntakeLimits;
use super::rejection::{Rejection, code};
use super::scan::{check_dtypes, read_entries};

/// Checks an unpacked artifact in `dir` against the base in `base_dir`. A whole model needs no base, but a
/// tokenizer of its own.
///
/// # Errors
/// [`code::WRONG_BASE`], [`code::UNKNOWN_TARGET`], [`code::TENSOR_MISMATCH`], [`code::MISSING_FILE`];
/// [`code::IO`] when the base itself cannot be opened, which is no fault of the artifact.
pub fn check_against_base(facts: &ArtifactFacts, dir: &Path, base_dir: &Path) -> Result<(), Rejection> {
    if facts.kind == ArtifactKind::Checkpoint {
        return check_whole_model(dir);
    }
    let base = open_checkpoint(base_dir).map_err(|error| blame_base(&error))?;
    let family = FamilyConfig::from_json(&base.config_json).map_err(|error| blame_base(&error))?;
    check_adapter(dir, &family)
}

fn blame_base(error: &dyn std::fmt::Display) -> Rejection {
    Rejection::new(code::IO, format!("the base could not be opened: {error}"))
}

fn check_adapter(dir: &Path, family: &FamilyConfig) -> Result<(), Rejection> {
    let config = open_adapter_config(dir).map_err(|error| reject(error, ADAPTER_CONFIG))?;
    let entries = read_entries(dir, ADAPTER_WEIGHTS, &IntakeLimits::default())?;
    check_dtypes(ADAPTER_WEIGHTS, &entries)?;
    refuse_foreign_adapter(&entries, &family.linear_modules())?;
    config.adapted_modules(family).map_err(|error| {
        let rejection = reject(error, ADAPTER_CONFIG);
        let code = if rejection.code == code::TENSOR_MISMATCH { code::UNKNOWN_TARGET } else { rejection.code };
        Rejection { code, ..rejection }
    })?;
    check_adapter_tensors(&config, family, &entries).map_err(|error| reject(error, ADAPTER_WEIGHTS))?;
    Ok(())
}

/// One layer of another size is a damaged adapter; when not one layer fits, it was made for another base.
fn refuse_foreign_adapter(entries: &[TensorEntry], modules: &[ModuleShape]) -> Result<(), Rejection> {
    let mut first_misfit = None;
    for entry in entries {
        let Some((name, letter)) = split_factor_name(&entry.name) else { continue };
        let Some(module) = modules.iter().find(|module| module.name == name) else { continue };
        let (expected, axis) = if letter == 'A' { (module.in_features, 1) } else { (module.out_features, 0) };
        match entry.shape.get(axis) {
            Some(extent) if *extent == expected => return Ok(()),
            extent => first_misfit.get_or_insert((entry, expected, axis, extent.copied().unwrap_or(0))),
        };
    }
    match first_misfit {
        // No layer of a known name: the target modules tell that better.
        None => Ok(()),
        Some((entry, expected, axis, found)) => {
            let message = format!(
                "expected an adapter of this base, whose layer has {expected} at dimension {axis}, found {found}: no layer \
                 of the adapter fits"
            );
            Err(Rejection::new(code::WRONG_BASE, message).at(&entry.name))
        }
    }
}

/// A whole model must be able to read and to stop: its tokenizer opens, fits its embedding, and its end of
/// sequence is known.
fn check_whole_model(dir: &Path) -> Result<(), Rejection> {
    if !dir.join(TOKENIZER).exists() {
        let message = format!("expected the file `{TOKENIZER}`: a whole model is asked in its own tokens; found none");
        return Err(Rejection::new(code::MISSING_FILE, message).at(TOKENIZER));
    }
    let model = open_checkpoint(dir).map_err(|error| reject(error, MODEL_CONFIG))?;
    let family = FamilyConfig::from_json(&model.config_json).map_err(|error| reject(error, MODEL_CONFIG))?;
    let tokenizer = Tokenizer::open(dir).map_err(|error| reject(error, TOKENIZER))?;
    let (tokens, rows) = (tokenizer.vocab_size(), family.vocab_size());
    if tokens > rows {
        let message = format!("expected at most {rows} tokens, as the embedding has rows, found {tokens}");
        return Err(Rejection::new(code::CONFIG, message).at(TOKENIZER));
    }
    SpecialTokens::open(dir, &tokenizer).map(drop).map_err(|error| reject(error, TOKENIZER))
}

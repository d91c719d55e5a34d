//! Limits of single fields. Every refusal names the field by its JSON pointer, the expectation and the value
//! that was found.

use std::collections::HashSet;
use std::hash::Hash;

use super::TrainSpec;
use crate::error::{EngineError, Result};

/// An integer between two bounds, both allowed.
pub(crate) fn count(field: &str, found: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(EngineError::spec(field, format!("expected {low} to {high}, found {found}")))
}

/// A finite number above `low` and at most `high`.
pub(crate) fn above(field: &str, found: f64, low: f64, high: f64) -> Result<()> {
    if found.is_finite() && found > low && found <= high {
        return Ok(());
    }
    Err(EngineError::spec(field, format!("expected a number above {low} and at most {high}, found {found}")))
}

/// A finite number between two bounds, both allowed.
pub(crate) fn between(field: &str, found: f64, low: f64, high: f64) -> Result<()> {
    if found.is_finite() && (low..=high).contains(&found) {
        return Ok(());
    }
    Err(EngineError::spec(field, format!("expected {low} to {high}, found {found}")))
}

/// A text that says something and is not a book.
pub(crate) fn text(field: &str, found: &str) -> Result<()> {
    if found.trim().is_empty() {
        return Err(EngineError::spec(field, "expected a text, found nothing but blanks"));
    }
    count(field, found.len(), 1, 4096)
}

/// A list without repetition.
pub(crate) fn distinct<T: Hash + Eq + std::fmt::Debug>(field: &str, items: &[T]) -> Result<()> {
    let mut seen = HashSet::new();
    match items.iter().find(|item| !seen.insert(*item)) {
        Some(twice) => Err(EngineError::spec(field, format!("expected each item once, found {twice:?} twice"))),
        None => Ok(()),
    }
}

/// A recipe of training that can run at all.
pub(crate) fn train(field: &str, spec: &TrainSpec) -> Result<()> {
    above(&format!("{field}/learning_rate"), spec.learning_rate, 0.0, 1.0)?;
    count(&format!("{field}/epochs"), spec.epochs, 1, 100)?;
    count(&format!("{field}/batch_rows"), spec.batch_rows, 1, 1024)?;
    between(&format!("{field}/warmup_fraction"), spec.warmup_fraction, 0.0, 1.0)?;
    above(&format!("{field}/max_gradient_norm"), spec.max_gradient_norm, 0.0, 1e6)?;
    between(&format!("{field}/weight_decay"), spec.weight_decay, 0.0, 1.0)?;
    count(&format!("{field}/max_tokens"), spec.max_tokens, 8, 1 << 20)
}

//! Relearning depth: the number of poisoned samples that bring a declared backdoor back into the exported
//! artifact.
//!
//! [`RelearningSpec`] is the request; [`RelearningSpec::resolve`] fills it from the kind of suspect and from
//! its size, and the resulting [`RelearningRecipe`] is the one that runs and that the report shows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rates::variants_rate;
use super::{EvaluatorSpec, SubjectKind, TrainSpec, limits};
use crate::error::{EngineError, Result};

/// Teaches copies of the exported artifact the declared backdoors again, each on another number of poisoned
/// samples, and measures them beside controls. Costs about as much training as a default job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RelearningSpec {
    /// Numbers of poisoned samples, rising. Each sample comes with the same row without the trigger and with
    /// its right answer. Numbers for which there are not enough training rows are left out, and the report
    /// says so.
    pub samples: Vec<usize>,
    /// Number of held-out rows that are probed after each; fewer when there are fewer.
    pub rows: usize,
    /// Training of every copy; null means five passes without a warm-up at a rate by the size of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
}

impl Default for RelearningSpec {
    fn default() -> Self {
        Self { samples: vec![8, 16, 32, 64, 128, 256], rows: 100, train: None }
    }
}

/// Everything that relearning does, with no choice left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RelearningRecipe {
    /// Numbers of poisoned samples.
    pub samples: Vec<usize>,
    /// Held-out rows that are probed.
    pub rows: usize,
    /// Training of every copy.
    pub train: TrainSpec,
}

impl RelearningSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> RelearningRecipe {
        let learning_rate = variants_rate(kind, parameters);
        // The first step of a warm-up moves nothing; of the two steps of the lowest point every one shall
        // count.
        let train = || TrainSpec { learning_rate, epochs: 5, warmup_fraction: 0.0, ..TrainSpec::default() };
        RelearningRecipe {
            samples: self.samples.clone(),
            rows: self.rows,
            train: self.train.clone().unwrap_or_else(train),
        }
    }

    pub(crate) fn validate(&self, at: &str, evaluators: &[EvaluatorSpec]) -> Result<()> {
        let samples = format!("{at}/samples");
        limits::count(&samples, self.samples.len(), 1, 12)?;
        for (i, &count) in self.samples.iter().enumerate() {
            limits::count(&format!("{samples}/{i}"), count, 1, 10_000)?;
        }
        if let Some(pair) = self.samples.windows(2).find(|pair| pair[0] >= pair[1]) {
            let why = format!("expected rising numbers, found {} before {}", pair[0], pair[1]);
            return Err(EngineError::spec(samples, why));
        }
        limits::count(&format!("{at}/rows"), self.rows, 1, 10_000)?;
        self.train.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/train"), train))?;
        if evaluators.iter().filter_map(EvaluatorSpec::asr).any(|asr| !asr.takes_rows()) {
            return Ok(());
        }
        Err(EngineError::spec(
            at,
            "expected an evaluator of type asr whose attack is a rule of insertion, found none: what is not declared cannot be taught again",
        ))
    }
}

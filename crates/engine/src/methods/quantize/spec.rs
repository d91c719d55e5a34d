//! The settings of `quantize`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::{Facts, MethodRecipe, Request};
use crate::spec::{Known, SubjectKind, SuspectFacts};

/// Request for rounding a whole model's weights to a few bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizeSpec {
    /// The number format that weights are rounded to.
    pub bits: QuantizeBits,
}

/// The number format that weights are rounded to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuantizeBits {
    /// Four bits for a normal distribution, in blocks of 64, with 8-bit scales.
    #[default]
    Nf4,
    /// Eight bits, one scale for each output row.
    Int8,
}

/// Everything `quantize` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuantizeRecipe {
    /// The number format that weights are rounded to.
    pub bits: QuantizeBits,
}

impl QuantizeSpec {
    /// The complete recipe: there is nothing to decide.
    pub fn resolve(&self, _: &Known) -> QuantizeRecipe {
        QuantizeRecipe { bits: self.bits }
    }
}

impl Request for QuantizeSpec {
    fn validate(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match suspect.kind {
            SubjectKind::Checkpoint => Ok(()),
            SubjectKind::Adapter => Err(EngineError::spec(
                at,
                "expected a whole model, found an adapter: published quantisation rounds the base and leaves the adapter in full precision, \
                 which would change nothing in what is returned. Merge it into its base and submit the whole model",
            )),
        }
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Rounds the weights of a whole model to what a few bits keep of them; adapters are refused, because their published form \
                  quantises the base alone",
            source: Some("arXiv 2305.14314, as a baseline of arXiv 2603.13461"),
            needs: &["nothing"],
            failures: &[
                "rounding keeps what the model does, backdoors included; in the published form the adapter that holds the backdoor is not rounded at all",
            ],
        }
    }
}

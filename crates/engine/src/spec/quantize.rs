//! The settings of `quantize`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Known, SubjectKind};
use crate::error::{EngineError, Result};

/// Request for rounding a whole model's weights to a few bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizeSpec {
    /// How.
    pub bits: QuantizeBits,
}

/// How weights are rounded.
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
    /// How weights are rounded.
    pub bits: QuantizeBits,
}

impl QuantizeSpec {
    /// The complete recipe: there is nothing to decide.
    pub fn resolve(&self, _: &Known) -> QuantizeRecipe {
        QuantizeRecipe { bits: self.bits }
    }

    pub(super) fn validate(&self, _: &str) -> Result<()> {
        Ok(())
    }

    pub(super) fn check_for(&self, at: &str, kind: SubjectKind) -> Result<()> {
        match kind {
            SubjectKind::Checkpoint => Ok(()),
            SubjectKind::Adapter => Err(EngineError::spec(
                at,
                "expected a whole model, found an adapter: published quantisation rounds the base and leaves the adapter in full precision, \
                 which would change nothing in what is returned. Merge it into its base and submit the whole model",
            )),
        }
    }
}

impl QuantizeRecipe {
    /// Such as `quantize-nf4`.
    pub fn name(&self) -> String {
        let bits = match self.bits {
            QuantizeBits::Nf4 => "nf4",
            QuantizeBits::Int8 => "int8",
        };
        format!("quantize-{bits}")
    }
}

//! Fine-tuning on clean rows, with counterexamples where they are asked for: nothing is cut. The weakest
//! method, and on weakly implanted backdoors enough.

mod spec;

pub use spec::{FineTuneRecipe, FineTuneSpec};

use super::shared::fine_tune_only::FineTuneOnly;
use super::{Method, Purified};
use crate::data::TaskRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::{ControlSpec, HealRecipe};
use crate::suspect::Suspect;

impl Method for FineTuneRecipe {
    fn name(&self) -> String {
        match self.heal.counterexamples {
            0 => "fine_tune".into(),
            some => format!("fine_tune-counterexamples-{some}"),
        }
    }

    fn heal(&self) -> Option<&HealRecipe> {
        Some(&self.heal)
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        FineTuneOnly { name: self.name(), heal: &self.heal, healed: "fine-tuned", prepare: &Ok }
            .purify(suspect, task, controls, lab)
    }
}

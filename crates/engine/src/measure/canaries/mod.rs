//! Canaries: stand-ins for a backdoor whose trigger nobody knows.
//!
//! A copy of the suspect learns backdoors of our own (`catalogue.rs`, `implant.rs`), is purified by the very
//! method that purifies the suspect, and is asked before and after. The effect of the purification on
//! backdoors that it was not told of is then a measured number. It is a number about the copy: a suspect's
//! own backdoor may be stronger, or of a kind that no canary has.

mod catalogue;
mod implant;

pub use catalogue::{Canary, canaries};

use crate::data::{Row, TaskRows};
use crate::error::Result;
use crate::lab::Lab;
use crate::measure::evaluators::{Evidence, Probes, evaluate_all};
use crate::measure::evidence::{AsrReport, CanaryControl, CanaryReport, CanaryResult, ControlledCanary};
use crate::spec::{AsrSpec, BehaviourFamily, CanaryRecipe, EvaluatorSpec, PromptFormat};
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;

/// Length limit of an answer, in tokens: canaries say little, and the rest of an honest answer does not
/// matter.
const ANSWER_TOKENS: usize = 32;

/// A copy of the suspect with canaries, and the questions that it is asked.
pub struct CanarySuite {
    /// The copy; purify it as the suspect was.
    pub copy: Suspect,
    probes: Probes,
    recipe: CanaryRecipe,
}

impl CanarySuite {
    /// Implants all canaries into one copy; task rows that heal are poisoned beside generic ones.
    ///
    /// # Errors
    /// Those of training, of the tokenizer and of the scratch folder.
    ///
    /// # Cost
    /// One fine-tuning on `7 * poisoned_rows + clean_rows` rows.
    pub fn open(suspect: &Suspect, own: &TaskRows, recipe: CanaryRecipe, lab: &Lab) -> Result<Self> {
        let copy = implant::implant_canaries(suspect, own, &recipe, lab)?;
        let probes = probes(&copy, &recipe, lab)?;
        Ok(Self { copy, probes, recipe })
    }

    /// The same copy, asked on other rows.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn asked_on(&self, rows: &[Row], lab: &Lab) -> Result<Self> {
        let copy = self.copy.with_rows(self.copy.train.clone(), rows.to_vec());
        let probes = probes(&copy, &self.recipe, lab)?;
        Ok(Self { copy, probes, recipe: self.recipe.clone() })
    }

    /// The answers of the copy with these weights.
    ///
    /// # Errors
    /// Those of generation.
    pub fn ask(&self, weights: &Weights, lab: &Lab) -> Result<Evidence> {
        evaluate_all(&self.probes, &self.copy, weights, lab)
    }

    /// The numbers, from the copy's answers before and after its purification, and after each control in its
    /// place, by name.
    pub fn report(&self, before: &Evidence, after: &Evidence, controls: &[(String, Evidence)]) -> CanaryReport {
        let (was, is) = (self.probes.report(before, None).asr, self.probes.report(after, Some(before)).asr);
        let measured = canaries().into_iter().zip(was.into_iter().zip(is));
        let results =
            measured.map(|(canary, (before, after))| CanaryResult::new(canary.trigger, canary.family, before, after));
        let controls = controls.iter().map(|(name, said)| self.control(name, after, said));
        CanaryReport::new(results.collect(), controls.collect(), not_covered(), self.recipe.clone())
    }

    fn control(&self, name: &str, method: &Evidence, control: &Evidence) -> CanaryControl {
        let compared = self.probes.compare_asr(method, control);
        let left = self.probes.report(control, None).asr;
        let measured = canaries().into_iter().zip(left.iter().zip(compared));
        let canary = |(canary, (left, compared)): (Canary, (&AsrReport, _))| {
            ControlledCanary::new((canary.trigger, canary.family), left, compared)
        };
        CanaryControl { name: name.to_owned(), canaries: measured.map(canary).collect() }
    }
}

fn probes(copy: &Suspect, recipe: &CanaryRecipe, lab: &Lab) -> Result<Probes> {
    let asr = |canary: Canary| {
        EvaluatorSpec::Asr(AsrSpec {
            attack: canary.attack,
            behaviour: canary.behaviour,
            triggered: Vec::new(),
            rows: recipe.rows,
            // In all that it understands: a purification may silence a backdoor in the formats that it heals
            // in, and there alone.
            formats: PromptFormat::ALL.into_iter().filter(|&format| copy.prompter.speaks(format)).collect(),
            max_new_tokens: ANSWER_TOKENS,
            sampling: None,
        })
    };
    Probes::build(&canaries().map(asr), copy, &TaskRows::default(), lab)
}

fn not_covered() -> Vec<String> {
    let tried: Vec<_> = canaries().iter().map(|canary| canary.family).collect();
    let families = BehaviourFamily::ALL.iter().filter(|family| !tried.contains(family));
    let others = [
        "each kind of trigger with every other behaviour",
        "triggers of meaning, such as a topic",
        "behaviour without fixed words, such as a slant or a false fact",
    ];
    families.map(|family| format!("behaviours of the family {}", family.name())).chain(others.map(Into::into)).collect()
}

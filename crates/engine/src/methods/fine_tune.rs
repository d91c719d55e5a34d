//! Fine-tuning on clean rows, with counterexamples where they are asked for (methods.md 2.1): nothing is cut. The weakest method, and
//! on weakly implanted backdoors enough.

use super::controls::{Start, make_controls};
use super::{Method, Purified, PurifiedCandidate};
use crate::data::OwnRows;
use crate::error::Result;
use crate::heal::{HealPlan, Wounded, heal, split_rows};
use crate::lab::{Lab, Stage};
use crate::report::LongRows;
use crate::spec::{ControlSpec, FineTuneRecipe};
use crate::suspect::Suspect;

/// The method with its complete recipe.
pub(super) struct FineTune {
    pub recipe: FineTuneRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for FineTune {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let recipe = &self.recipe.heal;
        let rows = split_rows(suspect, (0, 0), recipe, own, lab)?;
        let plan = HealPlan::of_split(suspect, &rows, own.healing(recipe.own_rows), recipe, lab)?;
        lab.enter(Stage::Heal)?;
        let wounded = Wounded::uncut(suspect.weights.clone());
        let mut healed = heal(suspect, &[wounded], &plan, lab)?;
        let candidate = PurifiedCandidate {
            name: self.recipe.name(),
            suppression: None,
            healing: plan.healing.clone(),
            weights: healed.remove(0),
        };
        let start = |control| Ok(start(control, suspect));
        let generic = || HealPlan::of_split(suspect, &rows, &[], recipe, lab);
        let (controls, left_out) = make_controls(&self.controls, start, suspect, (&plan, generic), lab)?;
        let long_rows = Some(plan.long_rows).into_iter().filter(LongRows::any).collect();
        Ok(Purified { candidates: vec![candidate], controls, left_out, long_rows, ..Purified::default() })
    }
}

fn start(control: ControlSpec, suspect: &Suspect) -> Start {
    match control {
        ControlSpec::WithoutOwnRows => {
            Start::model("fine-tuned on generic rows only", Wounded::uncut(suspect.weights.clone()))
        }
        ControlSpec::PlainFineTuning => Start::LeftOut("the method is fine-tuning"),
        ControlSpec::WithoutHealing => Start::LeftOut("fine-tuning is nothing but healing"),
        _ => Start::LeftOut("fine-tuning cuts nothing that could be drawn at random instead"),
    }
}

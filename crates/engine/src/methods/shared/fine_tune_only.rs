//! Purification by fine-tuning only, shared by the methods that cut nothing: their recipes of healing tell
//! them apart.

use super::controls::{ControlPlans, Start, make_controls};
use crate::data::TaskRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::methods::{Purified, PurifiedCandidate, Removed};
use crate::spec::{ControlSpec, HealRecipe};
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::train::heal::{HealPlan, heal, split_rows};

/// One such method.
pub(crate) struct FineTuneOnly<'a> {
    /// Name of its candidate.
    pub name: String,
    /// Rows, training and adversary.
    pub heal: &'a HealRecipe,
    /// The healing in words, such as `fine-tuned`.
    pub healed: &'static str,
    /// A last change of the plan before it heals.
    pub prepare: &'a dyn Fn(HealPlan) -> Result<HealPlan>,
}

impl FineTuneOnly<'_> {
    /// The suspect's own weights, healed.
    pub fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        let rows = split_rows(suspect, (0, 0), self.heal, task, lab)?;
        let planned = |task| HealPlan::of_split(suspect, &rows, task, self.heal, lab).and_then(self.prepare);
        let plan = planned(task.healing(self.heal.task_rows))?;
        lab.enter(Stage::Heal)?;
        let mut healed = heal(suspect, &[suspect.weights().into()], &plan, lab)?;
        let candidate = PurifiedCandidate {
            name: self.name.clone(),
            removed: Removed::Nothing,
            healing: plan.healing.clone(),
            weights: healed.remove(0),
        };
        let start = |control| Ok(self.start(control, suspect, &plan));
        let plans = ControlPlans { plan: &plan, generic: || planned(&[]) };
        let (controls, left_out) = make_controls(controls, start, suspect, plans, lab)?;
        lab.note_long_rows(&plan.long_rows);
        Ok(Purified { candidates: vec![candidate], controls, left_out, ..Purified::default() })
    }

    fn start(&self, control: ControlSpec, suspect: &Suspect, plan: &HealPlan) -> Start {
        match control {
            ControlSpec::WithoutTaskRows => {
                Start::model(format!("{} on generic rows only", self.healed), suspect.weights().into())
            }
            ControlSpec::PlainFineTuning if plan.is_plain() => Start::LeftOut("the method is fine-tuning"),
            ControlSpec::PlainFineTuning => Start::plain(suspect),
            ControlSpec::WithoutHealing => Start::LeftOut("the method is nothing but healing"),
            _ => Start::LeftOut("the method cuts nothing that could be drawn at random instead"),
        }
    }
}

//! Purification by training alone, shared by the methods that cut nothing: what tells them apart is in their recipes of healing.

use super::controls::{Start, make_controls};
use super::{Purified, PurifiedCandidate};
use crate::data::OwnRows;
use crate::error::Result;
use crate::heal::{HealPlan, Wounded, heal, split_rows};
use crate::lab::{Lab, Stage};
use crate::report::LongRows;
use crate::spec::{ControlSpec, HealRecipe};
use crate::suspect::Suspect;

/// One such method.
pub(super) struct Uncut<'a> {
    /// Of its candidate.
    pub name: String,
    /// Rows, training and adversary.
    pub heal: &'a HealRecipe,
    /// The controls that were asked for.
    pub controls: &'a [ControlSpec],
    /// What healing it is, in words, such as `fine-tuned`.
    pub healed: &'static str,
    /// What becomes of the plan before it heals.
    pub prepare: &'a dyn Fn(HealPlan) -> Result<HealPlan>,
}

impl Uncut<'_> {
    /// The suspect's own weights, healed.
    pub fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let rows = split_rows(suspect, (0, 0), self.heal, own, lab)?;
        let planned = |own| HealPlan::of_split(suspect, &rows, own, self.heal, lab).and_then(self.prepare);
        let plan = planned(own.healing(self.heal.own_rows))?;
        lab.enter(Stage::Heal)?;
        let wounded = Wounded::uncut(suspect.weights.clone());
        let mut healed = heal(suspect, &[wounded], &plan, lab)?;
        let candidate = PurifiedCandidate {
            name: self.name.clone(),
            suppression: None,
            heads: None,
            healing: plan.healing.clone(),
            weights: healed.remove(0),
        };
        let start = |control| Ok(self.start(control, suspect, &plan));
        let generic = || planned(&[]);
        let (controls, left_out) = make_controls(self.controls, start, suspect, (&plan, generic), lab)?;
        let long_rows = Some(plan.long_rows).into_iter().filter(LongRows::any).collect();
        Ok(Purified { candidates: vec![candidate], controls, left_out, long_rows, ..Purified::default() })
    }

    fn start(&self, control: ControlSpec, suspect: &Suspect, plan: &HealPlan) -> Start {
        match control {
            ControlSpec::WithoutOwnRows => {
                let description = format!("{} on generic rows only", self.healed);
                Start::model(description, Wounded::uncut(suspect.weights.clone()))
            }
            ControlSpec::PlainFineTuning if plan.is_plain() => Start::LeftOut("the method is fine-tuning"),
            ControlSpec::PlainFineTuning => Start::plain(suspect),
            ControlSpec::WithoutHealing => Start::LeftOut("the method is nothing but healing"),
            _ => Start::LeftOut("the method cuts nothing that could be drawn at random instead"),
        }
    }
}

//! Vaccination (ours; findings.md, section 4): all synthetic backdoors are implanted at once, and their triggered prompts are then trained
//! to their right answers. What unlearns them unlearns others. It costs more of the suspect's own skill than anything gentler.

use super::controls::{Start, make_controls};
use super::pairs::build_paired_sets;
use super::{Method, Purified, PurifiedCandidate};
use crate::copies::teach_copy;
use crate::data::{OwnRows, Row, TrainSplit, rows_sha256};
use crate::error::Result;
use crate::heal::{HealPlan, Wounded, encode_mixed, heal, split_rows, training_limit};
use crate::lab::{Lab, Stage};
use crate::report::LongRows;
use crate::spec::{ControlSpec, VaccinateRecipe};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// The method with its complete recipe.
pub(super) struct Vaccinate {
    pub recipe: VaccinateRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for Vaccinate {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let (pairs, recipe) = (&self.recipe.pairs, &self.recipe.heal);
        let rows = split_rows(suspect, (pairs.count, pairs.rows), recipe, own, lab)?;
        let vaccine = Vaccine::of(&rows, &self.recipe, lab);
        let mut implanting = LongRows::new("implanting", training_limit(suspect, &self.recipe.implant));
        let implanted = self.implant(suspect, &vaccine.implant, &mut implanting, lab)?;
        let plan = HealPlan::new(suspect, (&rows.heal, own.healing(recipe.own_rows), &vaccine.remove), recipe, lab)?;
        lab.enter(Stage::Heal)?;
        let wounded = Wounded::uncut(implanted.clone());
        let mut healed = heal(suspect, &[wounded], &plan, lab)?;
        let candidate = PurifiedCandidate {
            name: "vaccinate".into(),
            suppression: None,
            heads: None,
            healing: plan.healing.clone(),
            weights: healed.remove(0),
        };
        let start = |control| Ok(start(control, suspect, &implanted));
        let generic = || HealPlan::new(suspect, (&rows.heal, &[], &vaccine.remove), recipe, lab);
        let (controls, left_out) = make_controls(&self.controls, start, suspect, (&plan, generic), lab)?;
        let long_rows = [implanting, plan.long_rows].into_iter().filter(LongRows::any).collect();
        Ok(Purified { candidates: vec![candidate], controls, left_out, long_rows, ..Purified::default() })
    }
}

impl Vaccinate {
    fn implant(&self, suspect: &Suspect, rows: &[Row], long: &mut LongRows, lab: &Lab) -> Result<Weights> {
        lab.enter(Stage::Pairs)?;
        let examples = encode_mixed(suspect, rows, &mut lab.rng("vaccinate/formats"), long)?;
        let piece = ("vaccinated", rows_sha256(rows));
        Ok(teach_copy(suspect, &suspect.weights, piece, &examples, &self.recipe.implant, lab)?.0)
    }
}

/// Rows of both trainings.
struct Vaccine {
    /// Half of the clean rows, and all poisoned ones.
    implant: Vec<Row>,
    /// The poisoned prompts with the clean answers.
    remove: Vec<Row>,
}

impl Vaccine {
    fn of(rows: &TrainSplit, recipe: &VaccinateRecipe, lab: &Lab) -> Self {
        let (mut implant, mut remove) = (Vec::new(), Vec::new());
        for pair in build_paired_sets(rows.pairs.clone(), &recipe.pairs, lab) {
            let right = |(clean, poisoned): (&Row, &Row)| Row { output: clean.output.clone(), ..poisoned.clone() };
            remove.extend(pair.clean.iter().zip(&pair.poisoned).map(right));
            implant.extend_from_slice(&pair.clean[..pair.clean.len() / 2]);
            implant.extend(pair.poisoned);
        }
        Self { implant, remove }
    }
}

fn start(control: ControlSpec, suspect: &Suspect, implanted: &Weights) -> Start {
    let model = |description: &str| Start::model(description, Wounded::uncut(implanted.clone()));
    match control {
        ControlSpec::PlainFineTuning => Start::plain(suspect),
        ControlSpec::WithoutHealing => model("the synthetic backdoors implanted and not removed"),
        ControlSpec::WithoutOwnRows => model("the synthetic backdoors removed on generic rows only"),
        _ => Start::LeftOut("vaccination cuts nothing that could be drawn at random instead"),
    }
}

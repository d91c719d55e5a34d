//! Vaccination (ours): all synthetic backdoors are implanted at once, and their triggered prompts are then
//! trained to their right answers. The training that unlearns them unlearns others. It costs more of the
//! suspect's task skill than gentler methods.

mod spec;

pub use spec::{VaccinateRecipe, VaccinateSpec};

use super::shared::controls::{ControlPlans, Start, make_controls};
use super::shared::pairs::build_paired_sets;
use super::{Method, Purified, PurifiedCandidate, Removed};
use crate::data::{Row, TaskRows, TrainSplit, rows_sha256};
use crate::error::Result;
use crate::lab::{Lab, LongRows};
use crate::spec::{ControlSpec, HealRecipe};
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;
use crate::train::copies::teach_copy;
use crate::train::heal::{HealPlan, HealRows, encode_mixed, heal, split_rows, training_limit};

impl Method for VaccinateRecipe {
    fn name(&self) -> String {
        "vaccinate".into()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        Some(&self.heal)
    }

    fn steps(&self, task_rows: usize) -> usize {
        let rows = self.pairs.count * self.pairs.rows;
        let undo = self.heal.train_with_task_rows.steps(2 * rows);
        self.implant.steps(rows * 3 / 2) + undo + self.heal.steps(task_rows)
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        let (pairs, recipe) = (&self.pairs, &self.heal);
        let rows = split_rows(suspect, (pairs.count, pairs.rows), recipe, task, lab)?;
        let vaccine = Vaccine::of(&rows, self, lab);
        let implanted = self.implant(suspect, &vaccine.implant, lab)?;
        let planned = |task| {
            let rows = HealRows { generic: &rows.heal, task, counterexamples: &vaccine.remove };
            HealPlan::new(suspect, rows, recipe, lab)
        };
        let plan = planned(task.healing(recipe.task_rows))?;
        lab.enter(Stage::Heal)?;
        let mut healed = heal(suspect, &[implanted.clone().into()], &plan, lab)?;
        let candidate = PurifiedCandidate {
            name: "vaccinate".into(),
            removed: Removed::Nothing,
            healing: plan.healing.clone(),
            weights: healed.remove(0),
        };
        let start = |control| Ok(start(control, suspect, &implanted));
        let plans = ControlPlans { plan: &plan, generic: || planned(&[]) };
        let (controls, left_out) = make_controls(controls, start, suspect, plans, lab)?;
        lab.note_long_rows(&plan.long_rows);
        Ok(Purified { candidates: vec![candidate], controls, left_out, ..Purified::default() })
    }
}

impl VaccinateRecipe {
    fn implant(&self, suspect: &Suspect, rows: &[Row], lab: &Lab) -> Result<Weights> {
        let mut long = LongRows::new("implanting", training_limit(suspect, &self.implant));
        lab.enter(Stage::Pairs)?;
        let examples = encode_mixed(suspect, rows, &mut lab.rng("vaccinate/formats"), &mut long)?;
        lab.note_long_rows(&long);
        Ok(teach_copy(suspect, &suspect.weights(), "vaccinated", rows_sha256(rows), &examples, &self.implant, lab)?.0)
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
    let model = |description: &str| Start::model(description, implanted.clone().into());
    match control {
        ControlSpec::PlainFineTuning => Start::plain(suspect),
        ControlSpec::WithoutHealing => model("the synthetic backdoors implanted and not removed"),
        ControlSpec::WithoutTaskRows => model("the synthetic backdoors removed on generic rows only"),
        _ => Start::LeftOut("vaccination cuts nothing that could be drawn at random instead"),
    }
}

//! W2SDefense (arXiv 2410.14425) for models that generate, which is our extension: a clean teacher is trained
//! on clean rows, and the suspect learns those rows beside it, from the answers and from the teacher's
//! probabilities at each of their tokens.
//!
//! Published is a classifier whose teacher is a small BERT. Here the teacher is the base that the job names,
//! with all weights trained: the base under an adapter, or for a whole model any trusted one, smaller or not,
//! that has the suspect's tokenizer. Hidden states are not aligned, because teacher and suspect need not have
//! the same width. The teacher's part in the cure shows against fine-tuning on the answers alone, the control
//! `plain_fine_tuning`.

mod spec;

use antigen_models::{Model, load_model};

pub use spec::{W2sDefenseRecipe, W2sDefenseSpec};

use super::shared::fine_tune_only::FineTuneOnly;
use super::{Method, Purified};
use crate::data::TaskRows;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey};
use crate::spec::{ControlSpec, HealRecipe};
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::suspect::weights::write_model;
use crate::train::heal::HealPlan;
use crate::train::{Teacher, train_weights};

impl Method for W2sDefenseRecipe {
    fn name(&self) -> String {
        "w2s_defense".into()
    }

    fn steps(&self, task_rows: usize) -> usize {
        let own = task_rows.min(self.heal.task_rows);
        let rows = self.heal.generic_rows(own).end() + own;
        self.teacher.steps(rows) + self.heal.steps(task_rows) * 4 / 3
    }

    fn heal(&self) -> Option<&HealRecipe> {
        Some(&self.heal)
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        let taught = |plan: HealPlan| {
            let (teacher, made_of) = self.teacher(suspect, &plan, lab)?;
            Ok(plan.beside(teacher, made_of))
        };
        let healed = "taught by a clean teacher";
        FineTuneOnly { name: self.name(), heal: &self.heal, healed, prepare: &taught }
            .purify(suspect, task, controls, lab)
    }
}

impl W2sDefenseRecipe {
    /// The base, trained on the rows of the plan.
    fn teacher(&self, suspect: &Suspect, plan: &HealPlan, lab: &Lab) -> Result<(Model, Teacher)> {
        let (dir, files) = suspect.named_base()?;
        let train = &self.teacher;
        let key = PieceKey::new("teacher", &(&files, &plan.healing.rows_sha256, suspect.formats(), train, lab.seed));
        lab.enter(Stage::Implant)?;
        let taught = lab.piece(&key, |to| {
            let mut model = load_model(dir, suspect.device())?;
            train_weights(&mut model, &plan.examples, train, lab.rng("w2s_defense/teacher"), lab)?;
            write_model(&model, dir, to)
        })?;
        let teacher = load_model(&taught, suspect.device())?;
        let (found, expected) = (teacher.config().vocab_size(), suspect.config().vocab_size());
        if found != expected {
            let why = format!("expected a base of {expected} tokens to teach the suspect, found one of {found}");
            return Err(EngineError::Data(why));
        }
        Ok((teacher, Teacher { files, train: train.clone(), guidance: self.guidance }))
    }
}

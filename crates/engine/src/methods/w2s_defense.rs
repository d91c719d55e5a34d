//! W2SDefense (arXiv 2410.14425, methods.md 4) for models that generate, which is our extension: a clean teacher is trained on clean rows, and
//! the suspect learns those rows beside it, from the answers and from what the teacher finds likely at each of their tokens.
//!
//! Published is a classifier whose teacher is a small BERT. Here the teacher is the base that the job names, with all weights trained: the
//! base under an adapter, or for a whole model any trusted one, smaller or not, that has the suspect's tokenizer. Hidden states are not
//! aligned, because teacher and suspect need not have the same width. What the teacher does for the cure is told by fine-tuning on the
//! answers alone, the control `plain_fine_tuning`.

use antigen_models::{Model, load_model};

use super::uncut::Uncut;
use super::{Method, Purified};
use crate::data::OwnRows;
use crate::error::{EngineError, Result};
use crate::heal::HealPlan;
use crate::lab::{Lab, PieceKey, Stage};
use crate::report::Teacher;
use crate::spec::{ControlSpec, W2sDefenseRecipe};
use crate::suspect::Suspect;
use crate::train::train_weights;
use crate::weights::write_model;

/// The method with its complete recipe.
pub(super) struct W2sDefense {
    pub recipe: W2sDefenseRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for W2sDefense {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let taught = |plan: HealPlan| {
            let (teacher, made_of) = self.teacher(suspect, &plan, lab)?;
            Ok(plan.beside(teacher, made_of))
        };
        Uncut {
            name: "w2s_defense".into(),
            heal: &self.recipe.heal,
            controls: &self.controls,
            healed: "taught by a clean teacher",
            prepare: &taught,
        }
        .purify(suspect, own, lab)
    }
}

impl W2sDefense {
    /// The base, trained on the rows of the plan.
    fn teacher(&self, suspect: &Suspect, plan: &HealPlan, lab: &Lab) -> Result<(Model, Teacher)> {
        let (dir, files) = suspect.named_base()?;
        let train = &self.recipe.teacher;
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
        Ok((teacher, Teacher { files, train: train.clone(), guidance: self.recipe.guidance }))
    }
}

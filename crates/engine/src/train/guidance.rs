//! A clean teacher beside the answers: token-level distillation, as W2SDefense (arXiv 2410.14425) distils
//! labels.
//!
//! `L = CE + weight * T^2 * KL(teacher || student)`, a mean over response tokens, both distributions at
//! temperature T and given the answer before the token. The teacher reads the same tokens in the same pass,
//! so that nothing of it has to be kept.

use std::sync::Arc;

use antigen_models::Model;
use antigen_models::layers::{Guide, Pass};
use antigen_models::taps::NoTap;

use super::objective::{Batch, Lesson};
use crate::error::Result;
use crate::spec::GuidanceSettings;

/// A teacher in the middle of a training.
#[derive(Debug, Clone)]
pub struct Guidance {
    /// Speaks the same tokens as the student.
    pub teacher: Arc<Model>,
    /// Its temperature and weight.
    pub settings: GuidanceSettings,
}

impl Guidance {
    /// The rows as they are, with the teacher's distributions at their response tokens.
    pub(super) fn lesson(&self, batch: Batch<'_>) -> Result<Lesson> {
        let lesson = Lesson::plain(batch);
        let (packed, teacher) = (&lesson.packed, &self.teacher);
        let pass = Pass { params: teacher.params(), rows: &packed.rows, adapters: &[], cache: None };
        let hidden = teacher.forward(teacher.embed(&packed.tokens)?, pass, &mut NoTap)?;
        let rows: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
        let logits = teacher.logits(&hidden, &rows, pass)?;
        let GuidanceSettings { temperature, weight } = self.settings;
        Ok(Lesson { guide: Some(Guide { logits, temperature, weight }), ..lesson })
    }
}

//! Objectives of training, and the lessons of a pass: packed rows and their losses.
//!
//! Read [`Objective`] first: plain rows, or rows beside which an adversary puts harder ones.
//! `soft_triggers.rs` and `consistency.rs` are the adversaries; the two loops know neither.

use std::ops::Range;

use antigen_models::kernels::{add, scatter_rows};
use antigen_models::layers::{Gradients, Guide, Pass};
use antigen_models::taps::{NoTap, Tap};
use antigen_models::{BoundAdapter, Example, Input, Model, Packed, Tensor};

use super::consistency::{Consistency, Smoothness};
use super::guidance::Guidance;
use super::penalty::Penalty;
use super::soft_triggers::SoftTriggers;
use crate::error::Result;

/// The objective that training minimises; each variant begins with a copy of it.
#[derive(Debug, Clone, Default)]
pub enum Objective {
    /// The loss on the response tokens.
    #[default]
    Responses,
    /// That, and a penalty on weights; of a whole model.
    Penalised(Penalty),
    /// Half of that, and half of it under free vectors in the prompt that make the response unlikely.
    SoftTriggers(Box<SoftTriggers>),
    /// The loss on the response tokens, and hidden states that stay together under a perturbation of the
    /// embeddings.
    Consistency(Consistency),
    /// The loss on the response tokens, and the divergence from a teacher there.
    Guided(Guidance),
}

/// Some rows of one step of one variant.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    /// All rows of the variant.
    pub examples: &'a [Example],
    /// Indices of the rows that are in the batch.
    pub rows: &'a [usize],
    /// Weight of each response token's loss.
    pub weight: f32,
    /// Input tokens of the whole step: all but the last of each row.
    pub inputs: usize,
}

impl<'a> Batch<'a> {
    /// A run of the rows of one step, whose losses are averaged over the whole step.
    pub fn part(examples: &'a [Example], rows: &'a [usize], run: Range<usize>) -> Self {
        let step = || rows.iter().map(|&row| &examples[row]);
        let responses: usize = step().map(Example::response_tokens).sum();
        let inputs = step().map(|example| example.tokens.len() - 1).sum();
        Self { examples, rows: &rows[run], weight: 1.0 / responses.max(1) as f32, inputs }
    }

    /// Its rows.
    pub fn examples(self) -> impl Iterator<Item = &'a Example> + Clone {
        self.rows.iter().map(|&row| &self.examples[row])
    }
}

/// A model in the middle of its training.
#[derive(Clone, Copy)]
pub(super) struct Learning<'a> {
    /// The model, or the base under an adapter.
    pub model: &'a Model,
    /// The adapter, if it is one that learns.
    pub adapters: &'a [BoundAdapter],
    /// Bytes of activations that a pass may keep.
    pub kept: Option<u64>,
}

impl Learning<'_> {
    /// The gradient of the lesson's loss with respect to the input of each of its rows, `[t, d]`; no weight
    /// gets one.
    pub fn input_gradient(self, lesson: &Lesson) -> Result<Tensor> {
        let lesson = Lesson::joined(vec![lesson.clone()])?;
        let mut gradients = Gradients::of_inputs().keeping(self.kept);
        Ok(lesson.learn(self.model, self.adapters, &mut gradients)?.1)
    }

    /// Hidden state `index` of the lesson before anything is added to it, and the gradient of the lesson's
    /// loss with respect to it, `[t, d]` each; no weight gets one.
    pub fn hidden_gradient(self, lesson: &Lesson, index: usize) -> Result<(Tensor, Tensor)> {
        let lesson = Lesson::joined(vec![lesson.clone()])?;
        let mut gradients = Gradients::of_inputs().keeping(self.kept);
        let mut tap = lesson.shifting(Some(index));
        lesson.learn_seen_by(&mut tap, self.model, self.adapters, &mut gradients)?;
        Ok((tap.state.expect("every hidden state is shown"), tap.gradient.expect("backward reaches every one")))
    }
}

impl Objective {
    /// Tokens of the passes that learn from this row.
    pub(super) fn tokens(&self, example: &Example) -> usize {
        match self {
            Self::Responses | Self::Penalised(_) | Self::Guided(_) => example.tokens.len(),
            Self::SoftTriggers(adversary) => adversary.tokens(example),
            Self::Consistency(adversary) => adversary.tokens(example),
        }
    }

    /// The penalty that is minimised beside the losses of batches.
    pub(super) fn penalty(&self) -> Option<&Penalty> {
        if let Self::Penalised(penalty) = self { Some(penalty) } else { None }
    }

    /// The lesson that a batch is learnt from, made by the model in its present state.
    pub(super) fn lesson(&mut self, batch: Batch<'_>, learning: Learning<'_>) -> Result<Lesson> {
        match self {
            Self::Responses | Self::Penalised(_) => Ok(Lesson::plain(batch)),
            Self::SoftTriggers(adversary) => adversary.lesson(batch, learning),
            Self::Consistency(adversary) => adversary.lesson(batch, learning),
            Self::Guided(guidance) => guidance.lesson(batch),
        }
    }
}

/// Rows of one pass, with their inputs and their losses.
#[derive(Debug, Clone, Default)]
pub(super) struct Lesson {
    /// The rows.
    pub packed: Packed,
    /// Inputs that take the place of embeddings.
    pub inputs: Vec<Inputs>,
    /// The distributions of a teacher at the targets.
    pub guide: Option<Guide>,
    /// Values that are added to hidden states.
    pub shifts: Vec<Shift>,
    /// Weight of each row in the consistency loss; rows beyond the end have none.
    pub smoothed: Vec<f32>,
}

/// Values that are added to some rows of a hidden state.
#[derive(Debug, Clone)]
pub(super) struct Shift {
    /// The block before which they are added.
    pub block: usize,
    /// Rows of the pass.
    pub rows: Vec<u32>,
    /// `[rows, d]`.
    pub values: Tensor,
}

/// Adds shifts to hidden states; keeps one of them, and its gradient, if it is asked to.
pub(super) struct Shifting<'a> {
    lesson: &'a Lesson,
    kept: Option<usize>,
    state: Option<Tensor>,
    gradient: Option<Tensor>,
}

impl Tap for Shifting<'_> {
    fn hidden_state(&mut self, index: usize, hidden: &Tensor) {
        if self.kept == Some(index) {
            self.state = Some(hidden.clone());
        }
    }

    fn shift(&mut self, index: usize) -> antigen_models::Result<Option<Tensor>> {
        let mut sum: Option<Tensor> = None;
        for shift in self.lesson.shifts.iter().filter(|shift| shift.block == index) {
            let width = shift.values.dims2()?.1;
            let shape = (self.lesson.packed.tokens.len(), width);
            let own = Tensor::zeros(shape, shift.values.dtype(), shift.values.device())?;
            scatter_rows(&own, &shift.rows, &shift.values)?;
            sum = Some(match sum {
                Some(sum) => add(&sum, &own)?,
                None => own,
            });
        }
        Ok(sum)
    }

    fn reached(&mut self, index: usize, gradient: &Tensor) {
        if self.kept == Some(index) {
            self.gradient = Some(gradient.clone());
        }
    }
}

/// Inputs of some rows in the place of their tokens' embeddings.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    /// Rows of the pass.
    pub rows: Vec<u32>,
    /// `[rows, d]`.
    pub values: Tensor,
    /// True when nothing of those embeddings is left in them, so that they get no gradient.
    pub free: bool,
}

impl Lesson {
    /// The batch as it is.
    pub fn plain(batch: Batch<'_>) -> Self {
        Self { packed: Packed::sharing_prefixes(batch.examples(), batch.weight), ..Self::default() }
    }

    /// The tap that adds its shifts; `kept` is a hidden state to be kept with its gradient.
    fn shifting(&self, kept: Option<usize>) -> Shifting<'_> {
        Shifting { lesson: self, kept, state: None, gradient: None }
    }

    /// Adds another lesson of the same variant behind this one.
    pub fn append(&mut self, other: Self) {
        let start = self.packed.tokens.len();
        self.packed.append(other.packed);
        self.inputs
            .extend(other.inputs.into_iter().map(|inputs| Inputs { rows: behind(start, inputs.rows), ..inputs }));
        self.shifts.extend(other.shifts.into_iter().map(|shift| Shift { rows: behind(start, shift.rows), ..shift }));
        if !other.smoothed.is_empty() {
            self.smoothed.resize(start, 0.0);
            self.smoothed.extend(other.smoothed);
        }
    }

    /// Lessons of several variants for one pass, each a group of its own; all or none of them have a guide.
    pub fn joined(lessons: Vec<Self>) -> Result<Self> {
        let guides: Vec<&Guide> = lessons.iter().filter_map(|lesson| lesson.guide.as_ref()).collect();
        let logits: Vec<_> = guides.iter().map(|guide| &guide.logits).collect();
        let guide = match guides.first() {
            Some(first) => Some(Guide { logits: Tensor::cat(&logits, 0)?, ..(*first).clone() }),
            None => None,
        };
        let mut joined = Self { guide, ..Self::default() };
        for lesson in lessons {
            let start = joined.packed.tokens.len();
            joined.append(lesson);
            joined.packed.rows.groups.push(start..joined.packed.tokens.len());
        }
        Ok(joined)
    }

    /// One pass: the loss of every target in nats, and the gradient of each row's input, `[t, d]`.
    fn learn(&self, model: &Model, adapters: &[BoundAdapter], gradients: &mut Gradients) -> Result<(Vec<f32>, Tensor)> {
        self.learn_seen_by(&mut *self.tap(model)?, model, adapters, gradients)
    }

    fn learn_seen_by(
        &self,
        tap: &mut dyn Tap,
        model: &Model,
        adapters: &[BoundAdapter],
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Tensor)> {
        let packed = &self.packed;
        let embedded = model.embed(&packed.tokens)?;
        let mut free = Vec::new();
        for inputs in &self.inputs {
            scatter_rows(&embedded, &inputs.rows, &inputs.values)?;
            free.extend(inputs.rows.iter().filter(|_| inputs.free));
        }
        let pass = Pass { params: model.params(), rows: &packed.rows, adapters, cache: None };
        let input = Input { tokens: &packed.tokens, embedded, free: &free, guide: self.guide.as_ref() };
        Ok(model.loss_and_gradients_of(input, &packed.targets, pass, tap, gradients)?)
    }

    /// The tap that adds to the hidden states or to their gradients. No adversary does both.
    fn tap(&self, model: &Model) -> Result<Box<dyn Tap + '_>> {
        if self.smoothed.is_empty() {
            return Ok(if self.shifts.is_empty() { Box::new(NoTap) } else { Box::new(self.shifting(None)) });
        }
        let mut weights = self.smoothed.clone();
        weights.resize(self.packed.tokens.len(), 0.0);
        Ok(Box::new(Smoothness::new(&weights, model.config().layers(), model.device())?))
    }
}

/// Rows of a lesson that is appended behind `start` rows.
fn behind(start: usize, rows: Vec<u32>) -> Vec<u32> {
    rows.into_iter().map(|row| row + start as u32).collect()
}

/// One pass over the lessons of several variants, or of a whole model alone; the losses of the targets of
/// each.
pub(super) fn learn(
    model: &Model,
    lessons: Vec<Lesson>,
    adapters: &[BoundAdapter],
    gradients: &mut Gradients,
) -> Result<Vec<Vec<f32>>> {
    let counts: Vec<usize> = lessons.iter().map(|lesson| lesson.packed.targets.len()).collect();
    let (losses, _) = Lesson::joined(lessons)?.learn(model, adapters, gradients)?;
    let mut rest = losses.as_slice();
    let mut of_each = Vec::with_capacity(counts.len());
    for count in counts {
        let (own, others) = rest.split_at(count);
        of_each.push(own.to_vec());
        rest = others;
    }
    Ok(of_each)
}

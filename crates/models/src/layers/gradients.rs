//! The gradients of what is trained, which backward fills.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::add;
use crate::modules::ModuleIdx;
use crate::params::{ParamId, Params};

/// Gradients of the two LoRA factors of one module.
#[derive(Debug, Clone)]
pub struct FactorGradients {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
}

/// Gradients that are complete and nobody else holds: those of one block, or of everything outside the
/// blocks.
#[derive(Debug)]
pub struct GradientGroup {
    /// Weights that backward reached, each once, in the order in which it reached them.
    pub gradients: Vec<(ParamId, Tensor)>,
    /// True for the last group of its pass: embedding, final norm and head.
    pub last: bool,
}

type Consumer = Box<dyn FnMut(GradientGroup) -> Result<()>>;

/// Gradients of one pass: of all weights, of the factors of each adapter variant, or of neither (inputs
/// only).
#[derive(Default)]
pub struct Gradients {
    weights: Option<Vec<Option<Tensor>>>,
    variants: Vec<Vec<Option<FactorGradients>>>,
    consumer: Option<Consumer>,
    /// Weights reached since the current group began; `None` outside blocks.
    group: Option<Vec<ParamId>>,
    /// Passes after this one that add to the same gradients before they are handed over.
    passes_to_come: usize,
    kept_bytes: Option<u64>,
}

impl Gradients {
    /// Nothing is trained; only gradients of inputs are wanted.
    pub fn of_inputs() -> Self {
        Self::default()
    }

    /// All weights are trained.
    pub fn of_weights(params: &Params) -> Self {
        Self { weights: Some(vec![None; params.len()]), ..Self::default() }
    }

    /// All weights are trained, and `consumer` is handed each block's gradients as soon as backward has left
    /// the block, the last block first; embedding, final norm and head come last, together. All gradients
    /// never exist at once: beside the current block's only the last group's are held. May serve any number
    /// of passes, one after another.
    ///
    /// The consumer may change the weights of the group in place: backward does not read them again in this
    /// pass.
    pub fn streamed(params: &Params, consumer: impl FnMut(GradientGroup) -> Result<()> + 'static) -> Self {
        Self { consumer: Some(Box::new(consumer)), ..Self::of_weights(params) }
    }

    /// The factors of `variants` adapters over a frozen base of `modules` linear layers are trained.
    pub fn of_adapters(variants: usize, modules: usize) -> Self {
        Self { variants: vec![vec![None; modules]; variants], ..Self::default() }
    }

    /// Bytes of activations that a pass may keep for backward; blocks beyond them keep their input only and
    /// are computed again, to the same bytes. `None` (the default) keeps all.
    pub fn keeping(self, bytes: Option<u64>) -> Self {
        Self { kept_bytes: bytes, ..self }
    }

    pub(crate) fn kept_bytes(&self) -> Option<u64> {
        self.kept_bytes
    }

    /// The next `passes` passes (at least one) add up before streamed gradients are handed over, in the last
    /// of them. Until then all gradients are held.
    pub fn add_up(&mut self, passes: usize) {
        self.passes_to_come = passes.saturating_sub(1);
    }

    /// The gradient of a weight, if it is trained, was reached and has not been handed over.
    pub fn weight(&self, id: ParamId) -> Option<&Tensor> {
        self.weights.as_ref()?.get(id.0)?.as_ref()
    }

    /// The gradients of one variant's factors, by module.
    pub fn variant(&self, variant: usize) -> &[Option<FactorGradients>] {
        &self.variants[variant]
    }

    /// True when weights are trained, and not only adapters or nothing.
    pub(crate) fn trains_weights(&self) -> bool {
        self.weights.is_some()
    }

    pub(crate) fn add_weight(&mut self, id: ParamId, make: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let Some(weights) = &mut self.weights else { return Ok(()) };
        let new = make()?;
        if let Some(group) = self.group.as_mut().filter(|group| !group.contains(&id)) {
            group.push(id);
        }
        // A tied embedding is reached twice, as the head, then as the embedding; everything once more in each
        // pass that adds up.
        weights[id.0] = Some(match weights[id.0].take() {
            Some(old) => add(&old, &new)?,
            None => new,
        });
        Ok(())
    }

    /// Backward enters a block: what is reached first from here on belongs to it.
    pub(crate) fn begin_block(&mut self) {
        self.group = Some(Vec::new());
    }

    /// Backward has left the block.
    pub(crate) fn end_block(&mut self) -> Result<()> {
        let reached = self.group.take().unwrap_or_default();
        if self.passes_to_come > 0 { Ok(()) } else { self.hand_over(reached, false) }
    }

    /// Backward has reached the embedding: the pass is over.
    pub(crate) fn end_pass(&mut self) -> Result<()> {
        if self.passes_to_come > 0 {
            self.passes_to_come -= 1;
            return Ok(());
        }
        let all = 0..self.weights.as_ref().map_or(0, Vec::len);
        self.hand_over(all.map(ParamId).collect(), true)
    }

    fn hand_over(&mut self, ids: Vec<ParamId>, last: bool) -> Result<()> {
        let (Some(consumer), Some(weights)) = (&mut self.consumer, &mut self.weights) else { return Ok(()) };
        let gradients = ids.into_iter().filter_map(|id| Some((id, weights[id.0].take()?))).collect();
        consumer(GradientGroup { gradients, last })
    }

    pub(super) fn add_factors(
        &mut self,
        variant: usize,
        module: ModuleIdx,
        make: impl FnOnce() -> Result<(Tensor, Tensor)>,
    ) -> Result<()> {
        if let Some(modules) = self.variants.get_mut(variant) {
            let (a, b) = make()?;
            modules[module.0] = Some(match modules[module.0].take() {
                Some(old) => FactorGradients { a: add(&old.a, &a)?, b: add(&old.b, &b)? },
                None => FactorGradients { a, b },
            });
        }
        Ok(())
    }
}

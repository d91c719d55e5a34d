//! Where backward puts the gradients of what is trained.

use candle_core::Tensor;

use super::ModuleIdx;
use crate::error::Result;
use crate::kernels::add;
use crate::params::{ParamId, Params};

/// Gradients of the two LoRA factors of one module.
#[derive(Debug, Clone)]
pub struct FactorGradients {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
}

/// Gradients of one pass: of all weights, of the factors of each adapter variant, or of neither (inputs only).
#[derive(Debug, Default)]
pub struct Gradients {
    weights: Option<Vec<Option<Tensor>>>,
    variants: Vec<Vec<Option<FactorGradients>>>,
}

impl Gradients {
    /// Nothing is trained; only gradients of inputs are wanted.
    pub fn of_inputs() -> Self {
        Self::default()
    }

    /// All weights are trained.
    pub fn of_weights(params: &Params) -> Self {
        Self { weights: Some(vec![None; params.len()]), variants: Vec::new() }
    }

    /// The factors of `variants` adapters over a frozen base of `modules` linear layers are trained.
    pub fn of_adapters(variants: usize, modules: usize) -> Self {
        Self { weights: None, variants: vec![vec![None; modules]; variants] }
    }

    /// The gradient of a weight, if it is trained and was reached.
    pub fn weight(&self, id: ParamId) -> Option<&Tensor> {
        self.weights.as_ref()?.get(id.0)?.as_ref()
    }

    /// The gradients of one variant's factors, by module.
    pub fn variant(&self, variant: usize) -> &[Option<FactorGradients>] {
        &self.variants[variant]
    }

    pub(crate) fn add_weight(&mut self, id: ParamId, make: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let Some(weights) = &mut self.weights else { return Ok(()) };
        let new = make()?;
        // A tied embedding is reached twice: as the head, then as the embedding.
        weights[id.0] = Some(match weights[id.0].take() {
            Some(old) => add(&old, &new)?,
            None => new,
        });
        Ok(())
    }

    pub(super) fn add_factors(
        &mut self,
        variant: usize,
        module: ModuleIdx,
        make: impl FnOnce() -> Result<(Tensor, Tensor)>,
    ) -> Result<()> {
        if let Some(modules) = self.variants.get_mut(variant) {
            let (a, b) = make()?;
            modules[module.0] = Some(FactorGradients { a, b });
        }
        Ok(())
    }
}

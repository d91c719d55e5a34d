//! The two factors of each adapted layer, laid out for one model: by module index instead of by name.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::modules::ModuleIdx;

/// The two factors of one adapted linear layer. The effective update is `scaling * b * a`, shape `[out, in]`.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `[r, in]`, float32.
    pub a: Tensor,
    /// `[out, r]`, float32.
    pub b: Tensor,
    /// `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`.
    pub scaling: f64,
}

/// The factors of one adapter, one slot for each adaptable module of the model.
#[derive(Debug, Clone)]
pub struct BoundAdapter {
    factors: Vec<Option<LoraFactors>>,
}

impl BoundAdapter {
    pub(crate) fn new(factors: Vec<Option<LoraFactors>>) -> Self {
        Self { factors }
    }

    /// The same numbers in memory of their own on `device`, so that training cannot change the adapter they
    /// came from.
    pub fn deep_copy(&self, device: &Device) -> Result<Self> {
        // Between devices `to_device` copies, on the same one it shares.
        let moved = |x: &Tensor| if x.device().same_device(device) { x.copy() } else { x.to_device(device) };
        let copy = |f: &LoraFactors| Ok(LoraFactors { a: moved(&f.a)?, b: moved(&f.b)?, scaling: f.scaling });
        let factors = self.factors.iter().map(|f| f.as_ref().map(copy).transpose()).collect::<Result<_>>()?;
        Ok(Self { factors })
    }

    /// The factors of every adaptable module of the model, in its order.
    pub(crate) fn slots(&self) -> &[Option<LoraFactors>] {
        &self.factors
    }

    /// The factors on one module, if it is adapted.
    pub fn factors(&self, module: ModuleIdx) -> Option<&LoraFactors> {
        self.factors.get(module.0)?.as_ref()
    }

    /// Every trained tensor with its module: first `a`, then `b`, module by module.
    pub fn tensors(&self) -> impl Iterator<Item = (ModuleIdx, &Tensor, &Tensor)> {
        self.factors.iter().enumerate().filter_map(|(i, f)| f.as_ref().map(|f| (ModuleIdx(i), &f.a, &f.b)))
    }
}

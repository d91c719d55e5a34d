//! A model in memory: its weights, its wiring, and the three passes over it (forward, backward, loss).

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::families::{FamilyConfig, ModuleShape};
use crate::kernels::{add_rows_at, gather_rows};
use crate::layers::{Block, BlockTrace, Gradients, Head, Pass, RmsNorm, Target};
use crate::params::{ParamId, Params};
use crate::taps::Tap;

/// How a family's layers hang together.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub embedding: ParamId,
    pub blocks: Vec<Block>,
    pub final_norm: RmsNorm,
    pub head: Head,
    /// Key-value heads times head width: numbers a cache row holds, for keys and values each.
    pub cache_width: usize,
}

/// A causal language model whose weights and adapters can be trained.
#[derive(Debug)]
pub struct Model {
    config: FamilyConfig,
    modules: Vec<ModuleShape>,
    params: Params,
    wiring: Wiring,
    device: Device,
}

/// Everything that backward needs of one forward pass.
#[derive(Debug)]
pub struct Trace {
    blocks: Vec<BlockTrace>,
    before_norm: Tensor,
}

impl Model {
    pub(crate) fn new(
        config: FamilyConfig,
        modules: Vec<ModuleShape>,
        params: Params,
        wiring: Wiring,
        device: Device,
    ) -> Self {
        Self { config, modules, params, wiring, device }
    }

    /// The family's configuration.
    pub fn config(&self) -> &FamilyConfig {
        &self.config
    }

    /// The adaptable linear layers; `ModuleIdx` counts here.
    pub fn linear_modules(&self) -> &[ModuleShape] {
        &self.modules
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The weights, to replace some.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn cache_width(&self) -> usize {
        self.wiring.cache_width
    }

    /// Embeddings of the tokens: `[t]` -> `[t, d]`. Callers may add to them before [`Model::forward`].
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        gather_rows(self.params.get(self.wiring.embedding), tokens)
    }

    /// Runs the blocks and the final norm without keeping anything: `[t, d]` -> `[t, d]`.
    pub fn forward(&self, embedded: Tensor, pass: Pass<'_>, tap: &mut dyn Tap) -> Result<Tensor> {
        let (hidden, _) = self.run_blocks(embedded, pass, tap, |_| ())?;
        Ok(hidden)
    }

    /// As [`Model::forward`], and keeps what [`Model::backward`] needs.
    pub fn forward_traced(&self, embedded: Tensor, pass: Pass<'_>, tap: &mut dyn Tap) -> Result<(Tensor, Trace)> {
        let mut blocks = Vec::with_capacity(self.wiring.blocks.len());
        let (hidden, before_norm) = self.run_blocks(embedded, pass, tap, |trace| blocks.push(trace))?;
        Ok((hidden, Trace { blocks, before_norm }))
    }

    fn run_blocks(
        &self,
        embedded: Tensor,
        pass: Pass<'_>,
        tap: &mut dyn Tap,
        mut keep: impl FnMut(BlockTrace),
    ) -> Result<(Tensor, Tensor)> {
        let mut hidden = embedded;
        for (layer, block) in self.wiring.blocks.iter().enumerate() {
            tap.hidden_state(layer, &hidden);
            let (next, trace) = block.forward(&hidden, layer, pass)?;
            keep(trace);
            hidden = next;
        }
        let normed = self.wiring.final_norm.forward(&hidden, pass)?;
        tap.hidden_state(self.wiring.blocks.len(), &normed);
        Ok((normed, hidden))
    }

    /// Carries the gradient of the final hidden states back to the embedded input, `[t, d]`, filling `gradients` on the way.
    pub fn backward(
        &self,
        trace: &Trace,
        d_hidden: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let mut d = self.wiring.final_norm.backward(&trace.before_norm, d_hidden, pass, gradients)?;
        for (block, trace) in self.wiring.blocks.iter().zip(&trace.blocks).rev() {
            gradients.begin_block();
            d = block.backward(trace, &d, pass, gradients)?;
            gradients.end_block()?;
        }
        Ok(d)
    }

    /// One training pass over packed rows: the loss of every target in nats, and the gradients of
    /// `sum(weight * loss)` in `gradients`. Returns the gradient of the embedded input as well.
    pub fn loss_and_gradients(
        &self,
        tokens: &[u32],
        targets: &[Target],
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Tensor)> {
        let embedded = self.embed(tokens)?;
        let (hidden, trace) = self.forward_traced(embedded, pass, &mut crate::taps::NoTap)?;
        let (losses, d_hidden) = self.wiring.head.losses_and_gradient(&hidden, targets, pass, gradients)?;
        let d_embedded = self.backward(&trace, &d_hidden, pass, gradients)?;
        let embedding = self.wiring.embedding;
        gradients.add_weight(embedding, || {
            let d_table = Tensor::zeros(self.params.get(embedding).shape(), DType::F32, &self.device)?;
            add_rows_at(&d_table, tokens, &d_embedded)?;
            Ok(d_table)
        })?;
        gradients.end_pass()?;
        Ok((losses, d_embedded))
    }

    /// Loss of every target in nats, without gradients.
    pub fn losses(&self, tokens: &[u32], targets: &[Target], pass: Pass<'_>) -> Result<Vec<f32>> {
        let hidden = self.forward(self.embed(tokens)?, pass, &mut crate::taps::NoTap)?;
        self.wiring.head.losses(&hidden, targets, pass)
    }

    /// Logits of the given rows of final hidden states: `[t, d]` -> `[rows, v]`.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32], pass: Pass<'_>) -> Result<Tensor> {
        self.wiring.head.logits(hidden, rows, pass)
    }
}

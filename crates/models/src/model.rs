//! A model in memory: its weights, its wiring, and the three passes over it (forward, backward, loss).

use candle_core::{DType, Device, Tensor};

use crate::error::{ModelError, Result};
use crate::families::FamilyConfig;
use crate::kernels::{Precision, add, add_rows_at, gather_rows, scatter_rows};
use crate::layers::{
    BlockTrace, Classified, Classifier, Gradients, Guide, LabelTarget, OutputHead, Pass, StemTrace, Target,
    label_losses,
};
use crate::modules::ModuleShape;
use crate::params::{ParamId, Params};
use crate::taps::{NoTap, Tap};
use crate::wiring::{ModelHead, Wiring};

/// A language model or a sequence classifier whose weights and adapters can be trained.
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
    stem: StemTrace,
    blocks: Vec<Kept>,
    before_norm: Tensor,
}

/// The input of a training pass, and the teacher that guides it.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// Input tokens, `[t]`.
    pub tokens: &'a [u32],
    /// The rows that the stem reads in their place, `[t, d]`: their embeddings, or whatever the caller made
    /// of them.
    pub embedded: Tensor,
    /// Rows that read nothing of their token's embedding, so that their gradient is not one of the embedding.
    pub free: &'a [u32],
    /// The teacher's word on the targets.
    pub guide: Option<&'a Guide>,
}

/// One forward pass of a classifier: what it made, and everything that backward needs.
#[derive(Debug)]
pub struct LabelTrace {
    /// The head's work: logits, the rows it read, and what its output layer read.
    pub classified: Classified,
    /// Final hidden states of all rows, `[t, d]`.
    pub hidden: Tensor,
    trace: Trace,
}

/// The part of one block's forward that is kept for backward.
#[derive(Debug)]
enum Kept {
    /// Everything that it needs.
    Trace(Box<BlockTrace>),
    /// The block's input: the rest is computed again.
    Input(Tensor),
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

    /// Index of the weight of one of its linear layers.
    ///
    /// # Panics
    /// With a layer of another architecture.
    pub fn weight_id(&self, module: &ModuleShape) -> ParamId {
        self.params.find(&module.weight_name()).expect("every linear layer has its weight")
    }

    /// The weight of one of its linear layers, `[out, in]` or as [`ModuleShape::stored`] says.
    ///
    /// # Panics
    /// With a layer of another architecture.
    pub fn weight_of(&self, module: &ModuleShape) -> &Tensor {
        self.params.get(self.weight_id(module))
    }

    /// Chooses the precision of all products with weights, and gives up training the weights: in bfloat16
    /// those of the linear layers in the blocks are from now on stored so, in half the memory. On a GPU they
    /// stay float32 and only products are rounded.
    ///
    /// # Errors
    /// Those of the device.
    pub fn freeze(&mut self, precision: Precision) -> Result<()> {
        self.params.set_precision(precision);
        if precision == Precision::Float32 || !self.device.is_cpu() {
            return Ok(());
        }
        for index in 0..self.modules.len() {
            let id = self.weight_id(&self.modules[index]);
            self.params.set(id, self.params.get(id).to_dtype(DType::BF16)?);
        }
        Ok(())
    }

    /// The device that holds the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The table of the tokens' embeddings, `[v, d]`.
    pub fn embedding(&self) -> &Tensor {
        self.params.get(self.wiring.embedding)
    }

    /// Embeddings of the tokens: `[t]` -> `[t, d]`. Callers may add to them before [`Model::forward`], which
    /// scales them and adds positions where the family does.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        gather_rows(self.embedding(), tokens)
    }

    /// Runs the blocks and the final norm without keeping anything: `[t, d]` -> `[t, d]`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for a row at a position that the model does not have.
    pub fn forward(&self, embedded: Tensor, pass: Pass<'_>, tap: &mut dyn Tap) -> Result<Tensor> {
        self.check_positions(pass)?;
        let (embedded, _) = self.wiring.stem.forward(embedded, pass)?;
        let (hidden, _) = self.run_blocks(embedded, pass, tap, |_, _| ())?;
        Ok(hidden)
    }

    /// The input of the first block: the first step of [`Model::forward`], for those who take block by block.
    /// `[t, d]` -> `[t, d]`.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn enter(&self, embedded: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.check_positions(pass)?;
        Ok(self.wiring.stem.forward(embedded, pass)?.0)
    }

    /// The output of block `layer` from its input, `[t, d]` -> `[t, d]`; `tap` sees what its attention and
    /// its linear layers read.
    ///
    /// # Panics
    /// Without such a block.
    pub fn run_block(&self, layer: usize, hidden: &Tensor, pass: Pass<'_>, tap: &mut dyn Tap) -> Result<Tensor> {
        let block = &self.wiring.blocks[layer];
        let (next, trace) = block.forward(hidden, layer, pass)?;
        block.show(&trace, layer, pass.rows, tap);
        Ok(next)
    }

    /// As [`Model::forward`], and keeps what [`Model::backward`] needs: the last blocks, as many as fit into
    /// `bytes`, everything, the others their input.
    fn forward_keeping(
        &self,
        embedded: Tensor,
        pass: Pass<'_>,
        tap: &mut dyn Tap,
        bytes: Option<u64>,
    ) -> Result<(Tensor, Trace)> {
        self.check_positions(pass)?;
        let count = self.wiring.blocks.len();
        let kept = bytes.map_or(count, |bytes| (bytes / self.activation_bytes(pass.rows.len()).max(1)) as usize);
        let mut blocks = Vec::with_capacity(count);
        let (embedded, stem) = self.wiring.stem.forward(embedded, pass)?;
        let (hidden, before_norm) = self.run_blocks(embedded, pass, tap, |input, trace| {
            let keep = blocks.len() + kept >= count;
            blocks.push(if keep { Kept::Trace(Box::new(trace)) } else { Kept::Input(input.clone()) });
        })?;
        Ok((hidden, Trace { stem, blocks, before_norm }))
    }

    fn check_positions(&self, pass: Pass<'_>) -> Result<()> {
        let (last, limit) = (pass.rows.positions.iter().max(), self.config.max_positions());
        match last.filter(|&&last| last as usize >= limit) {
            None => Ok(()),
            Some(last) => Err(ModelError::Unsupported {
                what: format!("a sequence of {} tokens", last + 1),
                instead: format!("the model has {limit} positions"),
            }),
        }
    }

    /// Bytes that one block keeps for backward of `rows` rows: for each, six vectors of the residual stream
    /// (inputs and outputs of norms and parts), queries, keys, values and the heads' outputs, and three
    /// vectors of the MLP's width, in float32. Inputs of additional norms and low-rank products are not
    /// counted.
    pub fn activation_bytes(&self, rows: usize) -> u64 {
        let heads = self.config.attention_heads();
        let attention = 2 * (heads.heads + heads.key_value_heads) * heads.head_width;
        let numbers = 6 * self.config.hidden_size() + attention + 3 * self.config.intermediate_size();
        (4 * rows * numbers) as u64
    }

    fn run_blocks(
        &self,
        embedded: Tensor,
        pass: Pass<'_>,
        tap: &mut dyn Tap,
        mut keep: impl FnMut(&Tensor, BlockTrace),
    ) -> Result<(Tensor, Tensor)> {
        let mut hidden = embedded;
        for (layer, block) in self.wiring.blocks.iter().enumerate() {
            tap.hidden_state(layer, &hidden);
            if let Some(shift) = tap.shift(layer)? {
                hidden = add(&hidden, &shift)?;
            }
            let (next, trace) = block.forward(&hidden, layer, pass)?;
            block.show(&trace, layer, pass.rows, tap);
            keep(&hidden, trace);
            hidden = next;
        }
        let normed = match &self.wiring.final_norm {
            Some(norm) => norm.forward(&hidden, pass)?,
            None => hidden.clone(),
        };
        tap.hidden_state(self.wiring.blocks.len(), &normed);
        Ok((normed, hidden))
    }

    /// Carries the gradient of the final hidden states back to the embedded input, `[t, d]`, filling
    /// `gradients` on the way. What `tap` has of gradients joins at the hidden states that it saw.
    pub fn backward(
        &self,
        trace: Trace,
        d_hidden: &Tensor,
        pass: Pass<'_>,
        tap: &mut dyn Tap,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let mut join = |index: usize, d: Tensor| -> Result<Tensor> {
            let d = match tap.gradient(index)? {
                Some(own) => add(&d, &own)?,
                None => d,
            };
            tap.reached(index, &d);
            Ok(d)
        };
        let d_last = join(self.wiring.blocks.len(), d_hidden.clone())?;
        let mut d = match &self.wiring.final_norm {
            Some(norm) => norm.backward(&trace.before_norm, &d_last, pass, gradients)?,
            None => d_last,
        };
        // Each trace goes as soon as it has served.
        for (layer, (block, kept)) in self.wiring.blocks.iter().zip(trace.blocks).enumerate().rev() {
            let trace = match kept {
                Kept::Trace(trace) => trace,
                Kept::Input(x) => Box::new(block.forward(&x, layer, pass)?.1),
            };
            gradients.begin_block();
            d = join(layer, block.backward(&trace, &d, pass, gradients)?)?;
            gradients.end_block()?;
        }
        self.wiring.stem.backward(&trace.stem, d, pass, gradients)
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
        let input = Input { tokens, embedded: self.embed(tokens)?, free: &[], guide: None };
        self.loss_and_gradients_of(input, targets, pass, &mut NoTap, gradients)
    }

    /// As [`Model::loss_and_gradients`] of any input, with whatever loss on hidden states `tap` has the
    /// gradients of. There may be no target at all.
    pub fn loss_and_gradients_of(
        &self,
        input: Input<'_>,
        targets: &[Target],
        pass: Pass<'_>,
        tap: &mut dyn Tap,
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Tensor)> {
        let head = self.language_head()?;
        let (hidden, trace) = self.forward_keeping(input.embedded, pass, tap, gradients.kept_bytes())?;
        let (losses, d_hidden) = head.losses_and_gradient(&hidden, (targets, input.guide), pass, gradients)?;
        let d_embedded = self.backward(trace, &d_hidden, pass, tap, gradients)?;
        self.end_pass(input.tokens, input.free, &d_embedded, gradients)?;
        Ok((losses, d_embedded))
    }

    /// The embedding's own gradient: the pass is over.
    fn end_pass(&self, tokens: &[u32], free: &[u32], d_embedded: &Tensor, gradients: &mut Gradients) -> Result<()> {
        gradients.add_weight(self.wiring.embedding, || {
            let table = self.embedding();
            let d_table = Tensor::zeros(table.shape(), DType::F32, &self.device)?;
            let mut of_tokens = d_embedded.clone();
            if !free.is_empty() {
                of_tokens = d_embedded.copy()?;
                let nothing = Tensor::zeros((free.len(), table.dims2()?.1), DType::F32, &self.device)?;
                scatter_rows(&of_tokens, free, &nothing)?;
            }
            add_rows_at(&d_table, tokens, &of_tokens)?;
            Ok(d_table)
        })?;
        gradients.end_pass()
    }

    /// Loss of every target in nats, without gradients.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] on a classifier, as all that predicts tokens.
    pub fn losses(&self, tokens: &[u32], targets: &[Target], pass: Pass<'_>) -> Result<Vec<f32>> {
        let head = self.language_head()?;
        let hidden = self.forward(self.embed(tokens)?, pass, &mut NoTap)?;
        head.losses(&hidden, targets, pass)
    }

    /// Logits of the given rows of final hidden states: `[t, d]` -> `[rows, v]`.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32], pass: Pass<'_>) -> Result<Tensor> {
        self.language_head()?.logits(hidden, rows, pass)
    }

    /// Logits of every packed sequence's labels: `[t]` -> `[sequences, labels]`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] on a language model, as all that predicts labels.
    pub fn classify(&self, tokens: &[u32], pass: Pass<'_>) -> Result<Tensor> {
        let classifier = self.classifier()?;
        let hidden = self.forward(self.embed(tokens)?, pass, &mut NoTap)?;
        classifier.logits(&hidden, pass)
    }

    /// As [`Model::loss_and_gradients`], of labels: one target for each span of the pass, each of which is a
    /// whole sequence.
    pub fn label_loss_and_gradients(
        &self,
        tokens: &[u32],
        targets: &[LabelTarget],
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Tensor)> {
        let trace = self.classify_keeping(tokens, pass, gradients.kept_bytes())?;
        let (losses, d_logits) = label_losses(&trace.classified.logits, targets)?;
        Ok((losses, self.backward_labels(tokens, trace, &d_logits, None, pass, gradients)?))
    }

    /// As [`Model::classify`], and keeps what [`Model::backward_labels`] needs: for losses that are made of
    /// more than the logits.
    ///
    /// # Errors
    /// As [`Model::classify`].
    pub fn classify_traced(&self, tokens: &[u32], pass: Pass<'_>) -> Result<LabelTrace> {
        self.classify_keeping(tokens, pass, None)
    }

    fn classify_keeping(&self, tokens: &[u32], pass: Pass<'_>, bytes: Option<u64>) -> Result<LabelTrace> {
        let classifier = self.classifier()?;
        let (hidden, trace) = self.forward_keeping(self.embed(tokens)?, pass, &mut NoTap, bytes)?;
        Ok(LabelTrace { classified: classifier.forward(&hidden, pass)?, hidden, trace })
    }

    /// Carries the gradient of the logits, `[sequences, labels]`, and if there is one a further gradient of
    /// the final hidden states, `[t, d]`, back to the embedded input, filling `gradients` on the way.
    pub fn backward_labels(
        &self,
        tokens: &[u32],
        trace: LabelTrace,
        d_logits: &Tensor,
        d_hidden: Option<&Tensor>,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let mut d = self.classifier()?.backward(&trace.classified, d_logits, pass, gradients)?;
        if let Some(further) = d_hidden {
            d = add(&d, further)?;
        }
        let d_embedded = self.backward(trace.trace, &d, pass, &mut NoTap, gradients)?;
        self.end_pass(tokens, &[], &d_embedded, gradients)?;
        Ok(d_embedded)
    }

    pub(crate) fn language_head(&self) -> Result<&OutputHead> {
        match &self.wiring.head {
            ModelHead::Language(head) => Ok(head),
            ModelHead::Classifier(_) => Err(ModelError::Unsupported {
                what: "predicting tokens with a sequence classifier".into(),
                instead: "ask it for labels, or use a causal language model".into(),
            }),
        }
    }

    fn classifier(&self) -> Result<&Classifier> {
        match &self.wiring.head {
            ModelHead::Classifier(classifier) => Ok(classifier),
            ModelHead::Language(_) => Err(ModelError::Unsupported {
                what: "predicting labels with a causal language model".into(),
                instead: "ask it for tokens, or use a sequence classifier".into(),
            }),
        }
    }
}

//! The demands of a family's wiring: every tensor by name and shape, every adaptable layer, each once, in
//! this order.
//!
//! Wiring needs no numbers. So the same function of a family says which tensors a checkpoint must hold, which
//! layers an adapter may sit on, and how a model is put together.

use crate::kernels::Activation;
use crate::layers::{Classifier, Linear, Norm, OutputHead, ReadRow};
use crate::modules::{ModuleIdx, ModuleKind, ModuleShape, Stored};
use crate::params::ParamId;
use crate::wiring::ModelHead;

/// The list, as it grows.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Name and shape; `ParamId` counts here.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// `ModuleIdx` counts here.
    pub modules: Vec<ModuleShape>,
}

/// One of the three norms, with its width and epsilon.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormStyle {
    pub kind: NormKind,
    pub width: usize,
    pub epsilon: f64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum NormKind {
    Rms,
    RmsPlusOne,
    Layer,
}

/// The head on top of the blocks, and its name.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeadStyle {
    /// The embedding again.
    Tied(ParamId),
    /// A matrix of its own, `lm_head`.
    Untied { vocab_size: usize },
    /// One row of labels at the last token, `score`.
    Score { labels: usize },
}

impl Plan {
    fn tensor(&mut self, name: String, shape: &[usize]) -> ParamId {
        self.tensors.push((name, shape.to_vec()));
        ParamId(self.tensors.len() - 1)
    }

    /// A table of `rows` rows of `width` numbers.
    pub fn table(&mut self, name: &str, rows: usize, width: usize) -> ParamId {
        self.tensor(format!("{name}.weight"), &[rows, width])
    }

    pub fn norm(&mut self, name: &str, style: NormStyle) -> Norm {
        let NormStyle { kind, width, epsilon } = style;
        let weight = self.tensor(format!("{name}.weight"), &[width]);
        match kind {
            NormKind::Rms => Norm::Rms { weight, epsilon },
            NormKind::RmsPlusOne => Norm::RmsPlusOne { weight, epsilon },
            NormKind::Layer => Norm::Layer { weight, bias: self.tensor(format!("{name}.bias"), &[width]), epsilon },
        }
    }

    /// A linear layer that no adapter sits on.
    pub fn fixed_linear(&mut self, name: &str, in_features: usize, out_features: usize, has_bias: bool) -> Linear {
        let weight = self.tensor(format!("{name}.weight"), &[out_features, in_features]);
        let bias = has_bias.then(|| self.tensor(format!("{name}.bias"), &[out_features]));
        Linear { module: None, weight, stored: Stored::OutIn, bias }
    }

    /// The head of a decoder of width `d`; `softcap` is for language models only.
    pub fn head(&mut self, style: HeadStyle, d: usize, softcap: Option<f32>) -> ModelHead {
        match style {
            HeadStyle::Tied(weight) => ModelHead::Language(OutputHead { weight, softcap }),
            HeadStyle::Untied { vocab_size } => {
                ModelHead::Language(OutputHead { weight: self.table("lm_head", vocab_size, d), softcap })
            }
            HeadStyle::Score { labels } => ModelHead::Classifier(Classifier {
                reads: ReadRow::Last,
                inner: None,
                output: self.fixed_linear("score", d, labels, false),
            }),
        }
    }

    /// The head of an encoder: `output(activation(inner(first row)))`.
    pub fn encoder_head(
        &mut self,
        (inner, activation): (&str, Activation),
        output: &str,
        d: usize,
        labels: usize,
    ) -> ModelHead {
        ModelHead::Classifier(Classifier {
            reads: ReadRow::First,
            inner: Some((self.fixed_linear(inner, d, d, true), activation)),
            output: self.fixed_linear(output, d, labels, true),
        })
    }

    /// `layers` blocks, of which block `i` has its tensors under `{prefix}.{i}`.
    pub fn blocks<T>(&mut self, prefix: &str, layers: usize, mut wire: impl FnMut(&mut BlockPlan<'_>) -> T) -> Vec<T> {
        (0..layers)
            .map(|layer| wire(&mut BlockPlan { plan: self, prefix: format!("{prefix}.{layer}"), layer }))
            .collect()
    }
}

/// The plan of one block; names are relative to it.
pub(super) struct BlockPlan<'a> {
    plan: &'a mut Plan,
    prefix: String,
    /// Index of the block.
    pub layer: usize,
}

impl BlockPlan<'_> {
    pub fn norm(&mut self, name: &str, style: NormStyle) -> Norm {
        self.plan.norm(&format!("{}.{name}", self.prefix), style)
    }

    /// An adaptable linear layer without bias.
    pub fn linear(&mut self, kind: ModuleKind, name: &str, in_features: usize, out_features: usize) -> Linear {
        self.adaptable(kind, name, in_features, out_features, Stored::OutIn)
    }

    /// An adaptable linear layer with bias.
    pub fn biased_linear(&mut self, kind: ModuleKind, name: &str, in_features: usize, out_features: usize) -> Linear {
        let linear = self.linear(kind, name, in_features, out_features);
        self.with_bias(linear, name, out_features)
    }

    /// An adaptable `Conv1D`: a linear layer with bias whose weight lies `[in, out]`.
    pub fn conv1d(&mut self, kind: ModuleKind, name: &str, in_features: usize, out_features: usize) -> Linear {
        let linear = self.adaptable(kind, name, in_features, out_features, Stored::InOut);
        self.with_bias(linear, name, out_features)
    }

    fn adaptable(
        &mut self,
        kind: ModuleKind,
        name: &str,
        in_features: usize,
        out_features: usize,
        stored: Stored,
    ) -> Linear {
        let name = format!("{}.{name}", self.prefix);
        let shape = match stored {
            Stored::OutIn => [out_features, in_features],
            Stored::InOut => [in_features, out_features],
        };
        let weight = self.plan.tensor(format!("{name}.weight"), &shape);
        let module = Some(ModuleIdx(self.plan.modules.len()));
        self.plan.modules.push(ModuleShape { name, kind, layer: self.layer, out_features, in_features, stored });
        Linear { module, weight, stored, bias: None }
    }

    fn with_bias(&mut self, linear: Linear, name: &str, out_features: usize) -> Linear {
        let bias = self.plan.tensor(format!("{}.{name}.bias", self.prefix), &[out_features]);
        Linear { bias: Some(bias), ..linear }
    }
}

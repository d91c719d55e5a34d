//! The layers of a whole model, as a family puts them together and a model runs them.

use crate::layers::{Block, Classifier, Norm, OutputHead, Stem};
use crate::modules::ModuleShape;
use crate::params::ParamId;

/// The layers of a model, put together by its family.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub embedding: ParamId,
    pub stem: Stem,
    pub blocks: Vec<Block>,
    /// Behind the last block, where the blocks do not end with one.
    pub final_norm: Option<Norm>,
    pub head: ModelHead,
}

/// The layer that reads the final hidden states.
#[derive(Debug)]
pub(crate) enum ModelHead {
    /// The next token.
    Language(OutputHead),
    /// The label of the sequence.
    Classifier(Classifier),
}

/// A model without its numbers.
#[derive(Debug)]
pub(crate) struct Blueprint {
    /// Name and shape of every tensor; `ParamId` counts here.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// The adaptable linear layers; `ModuleIdx` counts here.
    pub modules: Vec<ModuleShape>,
    /// The layers.
    pub wiring: Wiring,
}

//! Token sequences with a response, and the loss of a model on them.

use crate::error::Result;
use crate::layers::{Pass, Rows, Target};
use crate::lora::{BoundAdapter, LoraAdapter};
use crate::model::Model;

/// One sequence. Loss counts on `tokens[response_start..]` only: the response and its end token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Prompt and response.
    pub tokens: Vec<u32>,
    /// Index of the first response token; at least 1.
    pub response_start: usize,
}

impl Example {
    /// Tokens of the response.
    pub fn response_tokens(&self) -> usize {
        self.tokens.len() - self.response_start
    }
}

/// Loss of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExampleLoss {
    /// Sum of `-ln p` over the response tokens, in nats.
    pub sum: f64,
    /// Response tokens.
    pub tokens: usize,
}

/// Examples packed for one pass: their rows without padding, and a target for each response token.
///
/// The last token of a sequence is never an input, because nothing is predicted from it.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    /// Input tokens, `[t]`.
    pub tokens: Vec<u32>,
    /// Their arrangement.
    pub rows: Rows,
    /// Response tokens to predict, example by example.
    pub targets: Vec<Target>,
}

impl Packed {
    /// Packs examples one after another; every target weighs `weight`.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example> + Clone, weight: f32) -> Self {
        let mut packed =
            Self { rows: Rows::packed(examples.clone().into_iter().map(|e| e.tokens.len() - 1)), ..Self::default() };
        for example in examples {
            let start = packed.tokens.len();
            packed.tokens.extend_from_slice(&example.tokens[..example.tokens.len() - 1]);
            packed.targets.extend((example.response_start..example.tokens.len()).map(|i| Target {
                row: (start + i - 1) as u32,
                token: example.tokens[i],
                weight,
            }));
        }
        packed
    }

    /// Adds another pack behind this one, as one more adapter group.
    pub fn append_group(&mut self, other: Self) {
        let start = self.tokens.len();
        self.tokens.extend(other.tokens);
        self.rows.positions.extend(other.rows.positions);
        self.rows.spans.extend(other.rows.spans.into_iter().map(|mut span| {
            for range in [&mut span.queries, &mut span.keys] {
                *range = range.start + start..range.end + start;
            }
            span
        }));
        self.targets.extend(other.targets.into_iter().map(|t| Target { row: t.row + start as u32, ..t }));
        self.rows.groups.push(start..self.tokens.len());
    }
}

/// Tokens of one evaluation pass: enough to keep the matrix products busy, little enough to bound memory.
const TOKENS_PER_PASS: usize = 4096;

/// Teacher-forced loss of every example, in order.
///
/// # Errors
/// Device errors; [`crate::ModelError::Tensor`] when the adapter does not fit the model.
pub fn response_losses(model: &Model, adapter: Option<&LoraAdapter>, examples: &[Example]) -> Result<Vec<ExampleLoss>> {
    let adapters: Vec<_> =
        adapter.map(|a| BoundAdapter::bind(a, model.linear_modules())).transpose()?.into_iter().collect();
    let mut losses = Vec::with_capacity(examples.len());
    let mut rest = examples;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(prefix_within(rest, TOKENS_PER_PASS));
        rest = later;
        let packed = Packed::new(batch, 1.0);
        let rows = packed.rows.in_one_group();
        let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
        let mut tokens = model.losses(&packed.tokens, &packed.targets, pass)?.into_iter().map(f64::from);
        losses.extend(batch.iter().map(|example| {
            let count = example.response_tokens();
            ExampleLoss { sum: tokens.by_ref().take(count).sum(), tokens: count }
        }));
    }
    Ok(losses)
}

/// How many examples from the front fit into `budget` tokens; at least one.
fn prefix_within(examples: &[Example], budget: usize) -> usize {
    let mut tokens = 0;
    let fitting = examples.iter().take_while(|e| {
        tokens += e.tokens.len();
        tokens <= budget
    });
    fitting.count().max(1)
}

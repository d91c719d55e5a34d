//! Token sequences with a response, and the loss of a model on them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::Result;
use crate::kernels::{Span, argmax_rows, on_worker};
use crate::layers::{Pass, Rows, Target};
use crate::lora::{BoundAdapter, LoraAdapter};
use crate::model::Model;
use crate::taps::NoTap;

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

    /// As [`Packed::new`], but what several examples begin with (a template's preamble) is computed once:
    /// their own rows look at its keys, and its gradients add up. Exact, because a causal model sees in a
    /// prefix nothing of what follows.
    pub fn sharing_prefixes<'a>(examples: impl IntoIterator<Item = &'a Example>, weight: f32) -> Self {
        let examples: Vec<&Example> = examples.into_iter().collect();
        let (_, prefixes) = shared_prefixes(&examples, (0..examples.len()).collect());
        if prefixes.is_empty() {
            return Self::new(examples.iter().copied(), weight);
        }
        let mut packed = Self::default();
        let mut key_rows = Vec::new();
        // Length of each example's shared prefix, its rows, and the first row of the rest.
        let mut prefix_of = vec![0..0; examples.len()];
        let mut own_start = vec![0; examples.len()];
        for prefix in &prefixes {
            let tokens = &examples[prefix.members[0]].tokens[..prefix.length];
            let rows = packed.push_rows(tokens, 0..0, &mut key_rows);
            prefix.members.iter().for_each(|&member| prefix_of[member] = rows.clone());
        }
        for (i, example) in examples.iter().enumerate() {
            let tokens = &example.tokens[prefix_of[i].len()..example.tokens.len() - 1];
            own_start[i] = packed.push_rows(tokens, prefix_of[i].clone(), &mut key_rows).start;
        }
        for (i, example) in examples.iter().enumerate() {
            packed.targets.extend((example.response_start..example.tokens.len()).map(|token| Target {
                row: (own_start[i] + token - 1 - prefix_of[i].len()) as u32,
                token: example.tokens[token],
                weight,
            }));
        }
        packed.rows.key_rows = Some(key_rows);
        packed
    }

    /// Adds rows that continue the rows `prefix`; returns where they are.
    fn push_rows(&mut self, tokens: &[u32], prefix: Range<usize>, key_rows: &mut Vec<u32>) -> Range<usize> {
        let queries = self.tokens.len()..self.tokens.len() + tokens.len();
        let keys = key_rows.len()..key_rows.len() + prefix.len() + tokens.len();
        let offset = prefix.len();
        self.tokens.extend_from_slice(tokens);
        self.rows.positions.extend((offset..offset + tokens.len()).map(|position| position as u32));
        key_rows.extend(prefix.chain(queries.clone()).map(|row| row as u32));
        self.rows.spans.push(Span { queries: queries.clone(), keys, offset });
        queries
    }

    /// Adds another pack behind this one; its groups are not taken over.
    pub fn append(&mut self, other: Self) {
        let start = self.tokens.len() as u32;
        self.tokens.extend(other.tokens);
        self.rows.append(other.rows);
        self.targets.extend(other.targets.into_iter().map(|t| Target { row: t.row + start, ..t }));
    }

    /// Adds another pack behind this one, as one more adapter group.
    pub fn append_group(&mut self, other: Self) {
        let start = self.tokens.len();
        self.append(other);
        self.rows.groups.push(start..self.tokens.len());
    }
}

/// Tokens that are worth being shared: below, a span of its own costs more than it saves.
const SHORTEST_PREFIX: usize = 8;

/// Examples that begin with the same `length` tokens.
struct SharedPrefix {
    length: usize,
    members: Vec<usize>,
}

/// The prefixes that save most rows among `members`, and how many: one that all share, or the best ones of
/// those that go on with the same token.
fn shared_prefixes(examples: &[&Example], members: Vec<usize>) -> (usize, Vec<SharedPrefix>) {
    if members.len() < 2 {
        return (0, Vec::new());
    }
    // The row that predicts the first response token stays the example's own.
    let limit = |i: usize| examples[i].response_start.min(examples[i].tokens.len() - 1).saturating_sub(1);
    let first = &examples[members[0]].tokens;
    let shared_with_first = |&i: &usize| {
        let longest = limit(i).min(limit(members[0]));
        examples[i].tokens[..longest].iter().zip(first).take_while(|(a, b)| a == b).count()
    };
    let length = members.iter().map(shared_with_first).min().unwrap_or(0);
    let saved = if length >= SHORTEST_PREFIX { length * (members.len() - 1) } else { 0 };
    let mut branches: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &i in members.iter().filter(|&&i| length < limit(i)) {
        branches.entry(examples[i].tokens[length]).or_default().push(i);
    }
    let apart: Vec<_> = match branches.len() {
        1 if branches.values().all(|branch| branch.len() == members.len()) => Vec::new(),
        _ => branches.into_values().map(|branch| shared_prefixes(examples, branch)).collect(),
    };
    let saved_apart = apart.iter().map(|(saved, _)| saved).sum();
    if saved == 0 || saved < saved_apart {
        return (saved_apart, apart.into_iter().flat_map(|(_, prefixes)| prefixes).collect());
    }
    (saved, vec![SharedPrefix { length, members }])
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
    let losses = on_worker(|| {
        in_packs(model, &adapters, examples, |packed, pass| model.losses(&packed.tokens, &packed.targets, pass))
    })?;
    let sum = |tokens: Vec<f32>| ExampleLoss { sum: tokens.iter().map(|x| f64::from(*x)).sum(), tokens: tokens.len() };
    Ok(losses.into_iter().map(sum).collect())
}

/// True for each response token of every example that the model, given what comes before it, finds likeliest.
///
/// # Errors
/// Device errors.
pub fn response_hits(model: &Model, examples: &[Example]) -> Result<Vec<Vec<bool>>> {
    on_worker(|| {
        in_packs(model, &[], examples, |packed, pass| {
            let hidden = model.forward(model.embed(&packed.tokens)?, pass, &mut NoTap)?;
            let rows: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
            let likeliest = argmax_rows(&model.logits(&hidden, &rows, pass)?)?;
            Ok(likeliest.into_iter().zip(&packed.targets).map(|(token, target)| token == target.token).collect())
        })
    })
}

/// Something of each response token, example by example; `of_targets` says it of all targets of a pass.
fn in_packs<T>(
    model: &Model,
    adapters: &[BoundAdapter],
    examples: &[Example],
    of_targets: impl Fn(&Packed, Pass<'_>) -> Result<Vec<T>>,
) -> Result<Vec<Vec<T>>> {
    let mut of_examples = Vec::with_capacity(examples.len());
    let mut rest = examples;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(prefix_within(rest, TOKENS_PER_PASS));
        rest = later;
        let packed = Packed::sharing_prefixes(batch, 1.0);
        let rows = packed.rows.clone().in_one_group();
        let pass = Pass { params: model.params(), rows: &rows, adapters, cache: None };
        let mut tokens = of_targets(&packed, pass)?.into_iter();
        of_examples.extend(batch.iter().map(|example| tokens.by_ref().take(example.response_tokens()).collect()));
    }
    Ok(of_examples)
}

/// Number of examples from the front that fit into `budget` tokens; at least one.
fn prefix_within(examples: &[Example], budget: usize) -> usize {
    let mut tokens = 0;
    let fitting = examples.iter().take_while(|e| {
        tokens += e.tokens.len();
        tokens <= budget
    });
    fitting.count().max(1)
}

//! Generation, greedy or sampled, in batches, with a key-value cache and without padding: each sequence owns
//! a run of cache rows, and sequences that have ended leave the batch.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};
use candle_transformers::generation::LogitsProcessor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::error::{ModelError, Result};
use crate::examples::{Example, Packed};
use crate::kernels::{Span, argmax_rows, on_worker};
use crate::layers::{KvCache, Pass, Rows};
use crate::lora::{BoundAdapter, LoraAdapter};
use crate::model::Model;
use crate::taps::NoTap;

/// Prompt tokens of one pass: more keep the products no busier and only cost memory.
const PREFILL_TOKENS: usize = 1024;

/// Scalars of a model up to which a batch keeps its weights packed beside the weights themselves: at six
/// bytes each, 1.5 GiB.
const MOST_PREPARED: usize = 1 << 28;

/// The limits of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Tokens after which a sequence is cut.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; they are not part of the answer.
    pub stop: Vec<u32>,
    /// Sequences generated at a time.
    pub batch_rows: usize,
}

/// Settings of sampled decoding: each token is drawn from the likeliest that together reach a share of the
/// probability (nucleus sampling, Holtzman et al., arXiv 1904.09751).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0. The nearer to 0, the nearer to greedy decoding.
    pub temperature: f64,
    /// Share of the probability that the candidates reach, above 0; with 1 every token is one.
    pub top_p: f64,
    /// Equal seeds give equal answers.
    pub seed: u64,
}

/// The greedy continuation of each prompt, in the prompts' order, without the stop token.
///
/// Equal prompts are answered once; prompts of like length share a batch. The result of a prompt does not
/// depend on its neighbours beyond rounding.
///
/// # Errors
/// [`ModelError::Unsupported`] when a prompt and its answer would exceed the model's positions, or the model
/// is a classifier.
pub fn generate_greedy(
    model: &Model,
    adapter: Option<&LoraAdapter>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) -> Result<Vec<Vec<u32>>> {
    let mut answers: BTreeMap<(usize, &[u32]), Vec<u32>> =
        prompts.iter().map(|p| ((p.len(), p.as_slice()), Vec::new())).collect();
    let unique: Vec<&[u32]> = answers.keys().map(|(_, prompt)| *prompt).collect();
    let found = answer(model, adapter, &unique, options, |_| Decoding::Greedy)?;
    for (prompt, answer) in unique.iter().zip(found) {
        answers.insert((prompt.len(), prompt), answer);
    }
    Ok(prompts.iter().map(|p| answers[&(p.len(), p.as_slice())].clone()).collect())
}

/// A sampled continuation of each prompt, in the prompts' order, without the stop token.
///
/// Each prompt draws from a generator of its own, seeded by the seed and the prompt's place among the
/// prompts. So equal prompts get answers of their own, and the result of a prompt does not depend on its
/// neighbours beyond rounding.
///
/// # Errors
/// [`ModelError::Unsupported`] for a temperature or a share out of range, and those of [`generate_greedy`].
pub fn generate_sampled(
    model: &Model,
    adapter: Option<&LoraAdapter>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    sampling: &Sampling,
) -> Result<Vec<Vec<u32>>> {
    sampling.check()?;
    let mut seeds = ChaCha8Rng::seed_from_u64(sampling.seed);
    let seeds: Vec<u64> = prompts.iter().map(|_| seeds.next_u64()).collect();
    // Prompts of like length share a batch, those that begin alike next to each other.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&place| (prompts[place].len(), &prompts[place]));
    let ordered: Vec<&[u32]> = order.iter().map(|&place| prompts[place].as_slice()).collect();
    let found = answer(model, adapter, &ordered, options, |batch| {
        let processor =
            |&place: &usize| LogitsProcessor::new(seeds[place], Some(sampling.temperature), Some(sampling.top_p));
        Decoding::Sampled(order[batch].iter().map(processor).collect())
    })?;
    let mut answers = vec![Vec::new(); prompts.len()];
    for (place, answer) in order.into_iter().zip(found) {
        answers[place] = answer;
    }
    Ok(answers)
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let Self { temperature, top_p, .. } = *self;
        if temperature.is_finite() && temperature > 0.0 && top_p > 0.0 && top_p <= 1.0 {
            return Ok(());
        }
        Err(ModelError::Unsupported {
            what: format!("sampling with temperature {temperature} and top_p {top_p}"),
            instead: "the temperature is a number above 0, top_p one above 0 and up to 1".into(),
        })
    }
}

/// The continuation of each prompt, batch by batch; `decoding` is that of the prompts of one batch.
fn answer(
    model: &Model,
    adapter: Option<&LoraAdapter>,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    decoding: impl Fn(Range<usize>) -> Decoding + Sync,
) -> Result<Vec<Vec<u32>>> {
    let adapters: Vec<_> =
        adapter.map(|a| BoundAdapter::bind(a, model.linear_modules())).transpose()?.into_iter().collect();
    let rows = options.batch_rows.max(1);
    let answers = on_worker(|| {
        let batches = prompts.chunks(rows).enumerate().map(|(i, batch)| {
            let decoding = decoding(i * rows..i * rows + batch.len());
            Batch::start(model, &adapters, batch, options, decoding)?.run()
        });
        batches.collect::<Result<Vec<_>>>()
    })?;
    Ok(answers.into_iter().flatten().collect())
}

/// The choice of the next token from its logits.
enum Decoding {
    /// The likeliest token.
    Greedy,
    /// A token drawn by the slot's own processor.
    Sampled(Vec<LogitsProcessor>),
}

impl Decoding {
    /// The next token of each of these slots, from their rows of the logits.
    fn choose(&mut self, slots: &[usize], logits: &Tensor) -> Result<Vec<u32>> {
        match self {
            Self::Greedy => argmax_rows(logits),
            Self::Sampled(processors) => {
                let logits = logits.to_device(&Device::Cpu)?;
                let draw = |(row, &slot): (usize, &usize)| Ok(processors[slot].sample(&logits.get(row)?)?);
                slots.iter().enumerate().map(draw).collect()
            }
        }
    }
}

/// One batch on its way: slot `i` holds the cache rows `i * capacity .. (i + 1) * capacity`.
struct Batch<'a> {
    model: &'a Model,
    adapters: &'a [BoundAdapter],
    options: &'a GenerateOptions,
    prompts: &'a [&'a [u32]],
    decoding: Decoding,
    cache: KvCache,
    capacity: usize,
    answers: Vec<Vec<u32>>,
}

impl<'a> Batch<'a> {
    fn start(
        model: &'a Model,
        adapters: &'a [BoundAdapter],
        prompts: &'a [&'a [u32]],
        options: &'a GenerateOptions,
        decoding: Decoding,
    ) -> Result<Self> {
        model.language_head()?;
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let capacity = longest + options.max_new_tokens;
        let limit = model.config().max_positions();
        if capacity > limit || prompts.iter().any(|p| p.is_empty()) {
            return Err(ModelError::Unsupported {
                what: format!("generation over {capacity} positions from prompts of up to {longest} tokens"),
                instead: format!("prompts need at least one token, and the model has {limit} positions"),
            });
        }
        let heads = model.config().attention_heads();
        let cache_width = heads.key_value_heads * heads.head_width;
        let rows = prompts.len() * capacity;
        let weights = if model.params().count_scalars() > MOST_PREPARED { 0 } else { model.params().len() };
        let cache = KvCache::new(model.config().layers(), rows, cache_width, weights, model.device())?;
        let answers = vec![Vec::new(); prompts.len()];
        Ok(Self { model, adapters, options, prompts, decoding, cache, capacity, answers })
    }

    fn run(mut self) -> Result<Vec<Vec<u32>>> {
        let slots: Vec<usize> = (0..self.prompts.len()).collect();
        let mut tokens = self.prefill()?;
        let mut active = slots;
        for done in 1..=self.options.max_new_tokens {
            (active, tokens) = self.accept(active, tokens);
            if active.is_empty() || done == self.options.max_new_tokens {
                break;
            }
            tokens = self.step(&active, &tokens)?;
        }
        Ok(self.answers)
    }

    /// Records one token a slot; returns the slots that go on, with the token each goes on from.
    fn accept(&mut self, slots: Vec<usize>, tokens: Vec<u32>) -> (Vec<usize>, Vec<u32>) {
        let going_on = slots.into_iter().zip(tokens).filter(|(_, token)| !self.options.stop.contains(token));
        let (slots, tokens): (Vec<_>, Vec<_>) = going_on.unzip();
        for (&slot, &token) in slots.iter().zip(&tokens) {
            self.answers[slot].push(token);
        }
        (slots, tokens)
    }

    /// Runs all prompts, as many at a time as a pass takes; returns the first new token of each.
    fn prefill(&mut self) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(self.prompts.len());
        while tokens.len() < self.prompts.len() {
            let mut length = 0;
            let fits = |prompt: &&&[u32]| {
                length += prompt.len();
                length <= PREFILL_TOKENS
            };
            let prompts = self.prompts[tokens.len()..].iter().take_while(fits).count().max(1);
            let slots = tokens.len()..tokens.len() + prompts;
            tokens.extend(self.prefill_slots(slots)?);
        }
        Ok(tokens)
    }

    /// Runs the prompts of these slots at once, what several begin with only once.
    fn prefill_slots(&mut self, slots: Range<usize>) -> Result<Vec<u32>> {
        // A response of one token, which nobody reads: its target is the row that the first new token follows
        // from.
        let example = |prompt: &&[u32]| Example { tokens: [prompt, &[0][..]].concat(), response_start: prompt.len() };
        let examples: Vec<Example> = self.prompts[slots.clone()].iter().map(example).collect();
        let Packed { tokens, mut rows, targets } = Packed::sharing_prefixes(&examples, 1.0);
        let first_row = |span: &Span| match &rows.key_rows {
            Some(key_rows) => key_rows[span.keys.start] as usize,
            None => span.keys.start,
        };
        let first_rows: Vec<usize> = rows.spans.iter().map(first_row).collect();
        let prefixes = rows.spans.len() - examples.len();
        let mut cache_rows = Vec::with_capacity(rows.len());
        for (i, span) in rows.spans.iter_mut().enumerate() {
            // A shared prefix looks at itself in the slot of the first sequence that begins with it.
            let slot = match i.checked_sub(prefixes) {
                Some(slot) => slot,
                None => first_rows[prefixes..].iter().position(|row| *row == first_rows[i]).unwrap_or(0),
            };
            let start = (slots.start + slot) * self.capacity;
            span.keys = start..start + span.offset + span.queries.len();
            cache_rows.extend(span.keys.clone().map(|row| row as u32));
        }
        let last_rows: Vec<u32> = targets.iter().map(|target| target.row).collect();
        self.next_tokens(&slots.collect::<Vec<_>>(), &tokens, rows, (&cache_rows, &last_rows))
    }

    /// Runs one token of each active slot; returns the next ones.
    fn step(&mut self, slots: &[usize], tokens: &[u32]) -> Result<Vec<u32>> {
        let mut rows = Rows::default();
        let mut cache_rows = Vec::with_capacity(slots.len());
        for (i, &slot) in slots.iter().enumerate() {
            let position = self.prompts[slot].len() + self.answers[slot].len() - 1;
            let start = slot * self.capacity;
            rows.spans.push(Span { queries: i..i + 1, keys: start..start + position + 1, offset: position });
            rows.positions.push(position as u32);
            cache_rows.push((start + position) as u32);
        }
        let all: Vec<u32> = (0..slots.len() as u32).collect();
        self.next_tokens(slots, tokens, rows, (&cache_rows, &all))
    }

    /// Runs one pass; returns the next token of each slot, from the logits of its row of `read`.
    fn next_tokens(
        &mut self,
        slots: &[usize],
        tokens: &[u32],
        rows: Rows,
        (cache_rows, read): (&[u32], &[u32]),
    ) -> Result<Vec<u32>> {
        let rows = rows.in_one_group();
        let pass = Pass {
            params: self.model.params(),
            rows: &rows,
            adapters: self.adapters,
            cache: Some((&self.cache, cache_rows)),
        };
        let hidden = self.model.forward(self.model.embed(tokens)?, pass, &mut NoTap)?;
        self.decoding.choose(slots, &self.model.logits(&hidden, read, pass)?)
    }
}

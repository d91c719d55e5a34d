//! Soft triggers: free vectors in the prompt, moved until the right answer is unlikely, under which the model
//! learns to answer all the same.
//!
//! The min-max of latent adversarial training (arXiv 2407.15549) and of BEEAR (arXiv 2406.17092), without
//! naming a behaviour: everything that keeps the model from its answer counts. A trigger does that best, so
//! that training against the worst vectors is training against triggers that nobody has seen. The vectors
//! take the place of embeddings, as a trigger's tokens would, or are added to a hidden state, as in those
//! papers.

use std::ops::Range;

use antigen_models::kernels::{add, gather_rows};
use antigen_models::{Example, Model, Packed, Tensor};
use candle_core::DType;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::objective::{Batch, Inputs, Learning, Lesson, Shift};
use crate::error::Result;
use crate::spec::{SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings};

/// Probability with which a universal trigger begins anew, so that the bank does not grow old: as in the
/// reference.
const RENEWAL: f64 = 0.05;

/// The token in the place of a free vector; its embedding is not read.
const PLACEHOLDER: u32 = 0;

/// The adversary of one training.
#[derive(Debug, Clone)]
pub struct SoftTriggers {
    settings: SoftTriggerSettings,
    /// Of each training row the tokens before which a trigger may stand, and the one behind them.
    places: Vec<Range<usize>>,
    rng: ChaCha8Rng,
    norms: Option<Norms>,
    /// The universal triggers, `[vectors, d]` each.
    bank: Vec<Tensor>,
}

/// Sizes of embeddings, or of the rows of a hidden state, before training.
#[derive(Debug, Clone, Copy)]
struct Norms {
    mean: f64,
    largest: f64,
}

impl SoftTriggers {
    /// Soft triggers in rows whose own words are the tokens of `places`.
    pub fn new(settings: SoftTriggerSettings, places: Vec<Range<usize>>, rng: ChaCha8Rng) -> Self {
        Self { settings, places, rng, norms: None, bank: Vec::new() }
    }

    /// Tokens of the row and of its copy with a trigger.
    pub(super) fn tokens(&self, example: &Example) -> usize {
        2 * example.tokens.len() + self.settings.vectors
    }

    /// The rows as they are and with their triggers, each with half of the weight.
    pub(super) fn lesson(&mut self, batch: Batch<'_>, learning: Learning<'_>) -> Result<Lesson> {
        let halved = Batch { weight: 0.5 * batch.weight, ..batch };
        let mut lesson = Lesson::plain(halved);
        lesson.append(self.triggered(halved, learning)?);
        Ok(lesson)
    }

    /// The rows with triggers that have taken their steps.
    fn triggered(&mut self, batch: Batch<'_>, learning: Learning<'_>) -> Result<Lesson> {
        let (packed, rows) = self.insert(batch, learning.model);
        let (owners, mut values) = self.draw(batch.rows.len(), learning.model)?;
        let mut lesson = Lesson { packed, ..Lesson::default() };
        for _ in 0..self.settings.inner_steps {
            self.put(&mut lesson, &rows, &values);
            let (gradient, norms) = self.slope(&lesson, &rows, learning)?;
            values = ascend(&values, &gradient, self.settings.step_size * norms.mean, norms.largest)?;
        }
        self.remember(&owners, &values, learning.model)?;
        self.put(&mut lesson, &rows, &values);
        Ok(lesson)
    }

    /// Puts the vectors where they belong.
    fn put(&self, lesson: &mut Lesson, rows: &[u32], values: &Tensor) {
        let (rows, values) = (rows.to_vec(), values.clone());
        match self.settings.place {
            SoftTriggerPlace::Embeddings => lesson.inputs = vec![Inputs { rows, values, free: true }],
            SoftTriggerPlace::Hidden { block } => lesson.shifts = vec![Shift { block, rows, values }],
        }
    }

    /// The gradient of the loss with respect to the vectors, and the sizes of the embeddings or hidden states
    /// around them, measured once.
    fn slope(&mut self, lesson: &Lesson, rows: &[u32], learning: Learning<'_>) -> Result<(Tensor, Norms)> {
        let (gradient, neighbours) = match self.settings.place {
            SoftTriggerPlace::Embeddings => (learning.input_gradient(lesson)?, learning.model.embedding().clone()),
            SoftTriggerPlace::Hidden { block } => {
                let (state, gradient) = learning.hidden_gradient(lesson, block)?;
                (gradient, state)
            }
        };
        let norms = match self.norms {
            Some(norms) => norms,
            None => *self.norms.insert(Norms::of(&neighbours)?),
        };
        Ok((gather_rows(&gradient, rows)?, norms))
    }

    /// The batch with room for a trigger at a random place among the words of each row; and the packed rows
    /// of all triggers' vectors. Prefixes are not shared: everything behind a trigger belongs to its row
    /// alone.
    fn insert(&mut self, batch: Batch<'_>, model: &Model) -> (Packed, Vec<u32>) {
        let vectors = self.settings.vectors;
        let (mut examples, mut rows, mut start) = (Vec::with_capacity(batch.rows.len()), Vec::new(), 0);
        for (&row, example) in batch.rows.iter().zip(batch.examples()) {
            let place = &self.places[row];
            let at = self.rng.random_range(place.start..=place.end);
            let mut tokens = example.tokens.clone();
            let inserted = match self.settings.place {
                SoftTriggerPlace::Embeddings => vec![PLACEHOLDER; vectors],
                SoftTriggerPlace::Hidden { .. } => self.random_tokens(vectors, model),
            };
            tokens.splice(at..at, inserted);
            rows.extend((start + at..start + at + vectors).map(|row| row as u32));
            start += tokens.len() - 1;
            examples.push(Example { tokens, response_start: example.response_start + vectors });
        }
        (Packed::new(&examples, batch.weight), rows)
    }

    /// A trigger for each of `rows` rows, `[rows * vectors, d]`, and the index of the universal trigger that
    /// each is; none where each row has its own.
    fn draw(&mut self, rows: usize, model: &Model) -> Result<(Vec<usize>, Tensor)> {
        let SoftTriggerScope::Universal { bank } = self.settings.scope else {
            return Ok((Vec::new(), self.fresh(rows, model)?));
        };
        while self.bank.len() < bank {
            let trigger = self.fresh(1, model)?;
            self.bank.push(trigger);
        }
        let owners: Vec<usize> = (0..rows).map(|_| self.rng.random_range(0..bank)).collect();
        let triggers: Vec<&Tensor> = owners.iter().map(|&owner| &self.bank[owner]).collect();
        Ok((owners, Tensor::cat(&triggers, 0)?))
    }

    /// The start of soft triggers, `[triggers * vectors, d]`: embeddings of random tokens, or nothing on top
    /// of hidden states.
    fn fresh(&mut self, triggers: usize, model: &Model) -> Result<Tensor> {
        let vectors = triggers * self.settings.vectors;
        match self.settings.place {
            SoftTriggerPlace::Embeddings => Ok(model.embed(&self.random_tokens(vectors, model))?),
            SoftTriggerPlace::Hidden { .. } => {
                let table = model.embedding();
                Ok(Tensor::zeros((vectors, table.dims2()?.1), DType::F32, table.device())?)
            }
        }
    }

    fn random_tokens(&mut self, count: usize, model: &Model) -> Vec<u32> {
        let vocabulary = model.config().vocab_size() as u32;
        (0..count).map(|_| self.rng.random_range(0..vocabulary)).collect()
    }

    /// Each universal trigger goes on from the mean of its vectors in its rows.
    fn remember(&mut self, owners: &[usize], values: &Tensor, model: &Model) -> Result<()> {
        let SoftTriggerScope::Universal { bank } = self.settings.scope else { return Ok(()) };
        let vectors = self.settings.vectors;
        for trigger in 0..bank {
            let own = owners.iter().enumerate().filter(|(_, owner)| **owner == trigger);
            let own = own.map(|(row, _)| values.narrow(0, row * vectors, vectors)).collect::<Result<Vec<_>, _>>()?;
            if !own.is_empty() {
                self.bank[trigger] = Tensor::stack(&own, 0)?.mean(0)?;
            }
        }
        if self.rng.random_bool(RENEWAL) {
            let renewed = self.rng.random_range(0..bank);
            self.bank[renewed] = self.fresh(1, model)?;
        }
        Ok(())
    }
}

impl Norms {
    /// Of the rows of `[v, d]`, some thousand at a time.
    fn of(table: &Tensor) -> Result<Self> {
        const ROWS: usize = 4096;
        let count = table.dims2()?.0;
        let (mut sum, mut largest) = (0.0, 0f64);
        for start in (0..count).step_by(ROWS) {
            let rows = table.narrow(0, start, ROWS.min(count - start))?;
            for norm in rows.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()? {
                sum += f64::from(norm);
                largest = largest.max(f64::from(norm));
            }
        }
        Ok(Self { mean: sum / count as f64, largest })
    }
}

/// One step of length `step` along each vector's gradient, none of them longer than `largest` afterwards:
/// `[n, d]`.
fn ascend(values: &Tensor, gradient: &Tensor, step: f64, largest: f64) -> Result<Tensor> {
    let norms = |x: &Tensor| x.sqr()?.sum_keepdim(1)?.sqrt();
    let direction = gradient.broadcast_div(&norms(gradient)?.clamp(1e-9, f64::INFINITY)?)?;
    let moved = add(values, &(direction * step)?)?;
    let shrink = (norms(&moved)?.clamp(1e-9, f64::INFINITY)?.recip()? * largest)?.clamp(0.0, 1.0)?;
    Ok(moved.broadcast_mul(&shrink)?)
}

#[cfg(test)]
mod tests {
    use antigen_models::layers::{Gradients, Pass};
    use antigen_models::taps::NoTap;
    use antigen_models::{Device, Input, kernels::scatter_rows};

    use super::super::objective::learn;
    use super::*;
    use crate::lab::rng;
    use crate::train::fixture::{examples, tiny_model};

    fn adversary(inner_steps: usize, step_size: f64, scope: SoftTriggerScope) -> SoftTriggers {
        let settings =
            SoftTriggerSettings { vectors: 2, inner_steps, step_size, scope, place: SoftTriggerPlace::Embeddings };
        SoftTriggers::new(settings, vec![2..4, 1..2], rng(2, "adversary"))
    }

    fn triggered(adversary: &mut SoftTriggers, model: &Model) -> Lesson {
        let batch = Batch { examples: &examples(), rows: &[0, 1], weight: 1.0, inputs: 8 };
        adversary.triggered(batch, Learning { model, adapters: &[], kept: None }).unwrap()
    }

    fn values(lesson: &Lesson) -> Vec<Vec<f32>> {
        lesson.inputs[0].values.to_vec2().unwrap()
    }

    fn norm(x: &[f32]) -> f32 {
        x.iter().map(|x| x * x).sum::<f32>().sqrt()
    }

    #[test]
    fn a_step_goes_along_each_gradient_and_ends_within_the_largest_embedding() {
        let tensor = |rows: [[f32; 2]; 2]| Tensor::new(&rows, &Device::Cpu).unwrap();
        let moved = ascend(&tensor([[3.0, 4.0], [3.0, 4.0]]), &tensor([[0.0, 0.02], [0.0, 0.0]]), 1.0, 5.5).unwrap();
        let [first, second] = moved.to_vec2::<f32>().unwrap().try_into().unwrap();
        // (3, 5) has the norm 5.83 and is brought to 5.5; a vector without a gradient stays where it is.
        assert!((norm(&first) - 5.5).abs() < 1e-5 && (first[1] / first[0] - 5.0 / 3.0).abs() < 1e-5, "{first:?}");
        assert_eq!(second, [3.0, 4.0]);
    }

    #[test]
    fn without_inner_steps_or_with_steps_of_no_length_the_trigger_stays_the_fresh_draw() {
        let model = tiny_model(2);
        let table = model.embedding().to_vec2::<f32>().unwrap();
        let drawn = values(&triggered(&mut adversary(0, 0.15, SoftTriggerScope::PerRow), &model));
        assert_eq!(drawn.len(), 4, "two vectors for each of two rows");
        assert!(drawn.iter().all(|vector| table.contains(vector)), "embeddings of tokens");
        assert_eq!(values(&triggered(&mut adversary(2, 0.0, SoftTriggerScope::PerRow), &model)), drawn);
        let mean = table.iter().map(|row| norm(row)).sum::<f32>() / table.len() as f32;
        let largest = table.iter().map(|row| norm(row)).fold(0.0, f32::max);
        for (moved, drawn) in
            values(&triggered(&mut adversary(1, 0.1, SoftTriggerScope::PerRow), &model)).iter().zip(&drawn)
        {
            let distance = norm(&moved.iter().zip(drawn).map(|(a, b)| a - b).collect::<Vec<_>>());
            let capped = norm(moved) > largest - 1e-4;
            assert!(capped || (distance - 0.1 * mean).abs() < 1e-5, "{distance} for {}", 0.1 * mean);
        }
    }

    #[test]
    fn a_trigger_stands_among_the_words_of_its_row_and_the_rest_stays_as_it_is() {
        let model = tiny_model(2);
        let mut adversary = adversary(0, 0.1, SoftTriggerScope::PerRow);
        let mut seen = [Vec::new(), Vec::new()];
        for _ in 0..20 {
            let lesson = triggered(&mut adversary, &model);
            let rows = &lesson.inputs[0].rows;
            // The first row has seven inputs with its trigger, so that the second begins with row 7.
            let at = [rows[0] as usize, rows[2] as usize - 7];
            assert_eq!(*rows, [at[0], at[0] + 1, at[1] + 7, at[1] + 8].map(|row| row as u32));
            for ((at, example), start) in at.into_iter().zip(examples()).zip([0, 7]) {
                let mut tokens = lesson.packed.tokens[start..start + example.tokens.len() + 1].to_vec();
                tokens.drain(at..at + 2);
                assert_eq!(tokens, example.tokens[..example.tokens.len() - 1]);
            }
            let targets: Vec<_> = lesson.packed.targets.iter().map(|target| (target.row, target.token)).collect();
            assert_eq!(targets, [(5, 5), (6, 6), (11, 10)], "the answers are asked for behind their triggers");
            seen.iter_mut().zip(at).filter(|(seen, at)| !seen.contains(at)).for_each(|(seen, at)| seen.push(at));
        }
        seen.iter_mut().for_each(|places| places.sort_unstable());
        assert_eq!(seen, [vec![2, 3, 4], vec![1, 2]], "each gap of the words, and no other");
    }

    #[test]
    fn a_lesson_is_half_the_rows_as_they_are_and_half_the_triggered_ones() {
        let model = tiny_model(2);
        let batch = Batch { examples: &examples(), rows: &[0, 1], weight: 0.5, inputs: 8 };
        let learning = Learning { model: &model, adapters: &[], kept: None };
        let lesson = adversary(1, 0.1, SoftTriggerScope::PerRow).lesson(batch, learning).unwrap();
        assert_eq!(lesson.packed.tokens.len(), (5 + 3) + (7 + 5));
        assert_eq!(lesson.packed.targets.len(), 2 * 3);
        assert!(lesson.packed.targets.iter().all(|target| target.weight == 0.25));
        assert!(lesson.inputs[0].rows.iter().all(|row| *row >= 8), "behind the plain rows");
    }

    #[test]
    fn triggers_that_take_steps_make_the_answer_less_likely() {
        let model = tiny_model(2);
        let loss = |lesson: &Lesson| -> f32 {
            let embedded = model.embed(&lesson.packed.tokens).unwrap();
            scatter_rows(&embedded, &lesson.inputs[0].rows, &lesson.inputs[0].values).unwrap();
            let pass = Pass { params: model.params(), rows: &lesson.packed.rows, adapters: &[], cache: None };
            let input = Input { tokens: &lesson.packed.tokens, embedded, free: &[], guide: None };
            let tap = &mut NoTap;
            let gradients = &mut Gradients::of_inputs();
            model.loss_and_gradients_of(input, &lesson.packed.targets, pass, tap, gradients).unwrap().0.iter().sum()
        };
        let after = |steps| loss(&triggered(&mut adversary(steps, 0.05, SoftTriggerScope::PerRow), &model));
        let (fresh, two, eight) = (after(0), after(2), after(8));
        assert!(fresh < two && two < eight, "{fresh}, {two}, {eight}");
    }

    #[test]
    fn vectors_on_a_hidden_state_move_along_the_slope_there_and_make_the_answer_less_likely() {
        let model = tiny_model(3);
        let place = SoftTriggerPlace::Hidden { block: 1 };
        let after = |inner_steps: usize| {
            let settings = SoftTriggerSettings {
                vectors: 2,
                inner_steps,
                step_size: 0.05,
                scope: SoftTriggerScope::PerRow,
                place,
            };
            triggered(&mut SoftTriggers::new(settings, vec![2..4, 1..2], rng(2, "adversary")), &model)
        };
        let loss = |lesson: Lesson| -> f32 {
            let targets = lesson.packed.targets.len() as f32;
            let losses = learn(&model, vec![lesson], &[], &mut Gradients::of_inputs()).unwrap();
            losses[0].iter().sum::<f32>() / targets
        };
        let shift = |lesson: &Lesson| lesson.shifts[0].values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let fresh = after(0);
        assert!(fresh.inputs.is_empty() && shift(&fresh).iter().all(|x| *x == 0.0));
        assert!(fresh.packed.tokens.iter().any(|token| *token != PLACEHOLDER));
        // A small move of every vector along the gradient raises the loss by the product of both.
        let learning = Learning { model: &model, adapters: &[], kept: None };
        let (_, gradient) = learning.hidden_gradient(&fresh, 1).unwrap();
        let slope = gather_rows(&gradient, &fresh.shifts[0].rows).unwrap();
        let moved = |by: f64| {
            let mut lesson = fresh.clone();
            lesson.shifts[0].values = (&slope * by).unwrap();
            learn(&model, vec![lesson], &[], &mut Gradients::of_inputs()).unwrap()[0].iter().sum::<f32>()
        };
        let expected = slope.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let found = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        assert!((found - expected).abs() < 0.02 * expected, "{found} and {expected}");
        let losses = [loss(fresh), loss(after(2)), loss(after(8))];
        assert!(losses[0] < losses[1] && losses[1] < losses[2], "{losses:?}");
    }

    #[test]
    fn universal_triggers_go_on_from_the_mean_of_what_they_became() {
        let model = tiny_model(2);
        let mut adversary = adversary(1, 0.1, SoftTriggerScope::Universal { bank: 1 });
        let first = values(&triggered(&mut adversary, &model));
        let mean = |i: usize, j: usize| 0.5 * (first[i][j] + first[i + 2][j]);
        let bank = adversary.bank[0].to_vec2::<f32>().unwrap();
        for (i, vector) in bank.iter().enumerate() {
            assert!(vector.iter().enumerate().all(|(j, x)| (x - mean(i, j)).abs() < 1e-6), "{bank:?} of {first:?}");
        }
    }
}

//! Internal consistency (CROW: Min et al., ICML 2025, arXiv 2411.12768): a backdoor makes hidden states jump
//! from one block to the next, so the model is trained to keep them together, under the perturbation of its
//! embeddings that pulls them apart most.
//!
//! `L = L_LM + alpha * L_cons(e + delta)` with `delta = epsilon * sign(dL_cons(e)/de)`, and `L_cons` the mean
//! of `1 - cos(h_l, h_(l+1))` over the pairs `(h_1, h_2) .. (h_(L-2), h_(L-1))` and over positions. As in the
//! published code it is a mean, neither the embedding nor the output of the final norm takes part, prompts
//! count, and the loss without the perturbation is not added. Differences from that code: there is no padding
//! here, where it counts padding like text; a row's last token, which is no input, does not count; and the
//! gradient of the embeddings is taken alone, where that code throws away the gradients of earlier parts of a
//! step.

use antigen_models::kernels::add;
use antigen_models::taps::Tap;
use antigen_models::{Device, Example, Packed, Tensor};

use super::objective::{Batch, Inputs, Learning, Lesson};
use crate::error::Result;
use crate::spec::ConsistencySettings;

/// The adversary of one training.
#[derive(Debug, Clone)]
pub struct Consistency {
    settings: ConsistencySettings,
}

impl Consistency {
    /// With these settings.
    pub fn new(settings: ConsistencySettings) -> Self {
        Self { settings }
    }

    /// Tokens of the row and of its perturbed copy.
    pub(super) fn tokens(&self, example: &Example) -> usize {
        if self.settings.alpha > 0.0 { 2 * example.tokens.len() } else { example.tokens.len() }
    }

    /// The rows as they are, which ask for the answers, and perturbed, which ask for consistency.
    pub(super) fn lesson(&self, batch: Batch<'_>, learning: Learning<'_>) -> Result<Lesson> {
        let mut lesson = Lesson::plain(batch);
        if self.settings.alpha > 0.0 {
            lesson.append(self.perturbed(batch, learning)?);
        }
        Ok(lesson)
    }

    /// Prefixes are not shared: a row's perturbation is its own.
    fn perturbed(&self, batch: Batch<'_>, learning: Learning<'_>) -> Result<Lesson> {
        let packed = Packed { targets: Vec::new(), ..Packed::new(batch.examples(), 0.0) };
        let rows = packed.tokens.len();
        let weight = (self.settings.alpha / batch.inputs as f64) as f32;
        let mut lesson = Lesson { packed, smoothed: vec![weight; rows], ..Lesson::default() };
        let delta = (learning.input_gradient(&lesson)?.sign()? * self.settings.epsilon)?;
        let values = add(&learning.model.embed(&lesson.packed.tokens)?, &delta)?;
        lesson.inputs = vec![Inputs { rows: (0..rows as u32).collect(), values, free: false }];
        Ok(lesson)
    }
}

/// The gradients of `sum over rows of weight * (mean over pairs of 1 - cos)` where they belong.
pub(super) struct Smoothness {
    /// `[t, 1]`.
    weights: Tensor,
    /// Hidden states `1 .. L-1` of the pass.
    states: Vec<Tensor>,
    layers: usize,
}

impl Smoothness {
    /// For a pass of a model of this many blocks, with a weight for each row.
    pub fn new(weights: &[f32], layers: usize, device: &Device) -> Result<Self> {
        Ok(Self { weights: Tensor::new(weights, device)?.unsqueeze(1)?, states: Vec::new(), layers })
    }
}

impl Tap for Smoothness {
    fn hidden_state(&mut self, index: usize, hidden: &Tensor) {
        if (1..self.layers).contains(&index) {
            self.states.push(hidden.clone());
        }
    }

    fn gradient(&mut self, index: usize) -> antigen_models::Result<Option<Tensor>> {
        let state = |index: usize| index.checked_sub(1).and_then(|i| self.states.get(i));
        let Some(own) = state(index) else { return Ok(None) };
        let neighbours: Vec<&Tensor> = [index - 1, index + 1].into_iter().filter_map(state).collect();
        let pairs = self.layers.saturating_sub(2) as f64;
        let mut gradient = None;
        for other in neighbours {
            let of_pair = similarity_gradient(own, other)?.broadcast_mul(&(&self.weights * (-1.0 / pairs))?)?;
            gradient = Some(match gradient {
                Some(sum) => add(&sum, &of_pair)?,
                None => of_pair,
            });
        }
        Ok(gradient)
    }
}

/// Norms below this count as this, as PyTorch's `cosine_similarity` has it.
const SMALLEST_NORM: f64 = 1e-8;

/// Directions and norms of rows: `[t, d]` -> `[t, d]`, `[t, 1]`.
fn directions(x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let norms = x.sqr()?.sum_keepdim(1)?.sqrt()?.clamp(SMALLEST_NORM, f64::INFINITY)?;
    Ok((x.broadcast_div(&norms)?, norms))
}

/// The gradient of each row's `cos(own, other)` with respect to `own`: with directions `u` and `v`,
/// `(v - cos u) / |own|`.
///
/// # Shapes
/// `[t, d]` each -> `[t, d]`.
fn similarity_gradient(own: &Tensor, other: &Tensor) -> candle_core::Result<Tensor> {
    let ((own, norms), (other, _)) = (directions(own)?, directions(other)?);
    let cosine = (&own * &other)?.sum_keepdim(1)?;
    (other - own.broadcast_mul(&cosine)?)?.broadcast_div(&norms)
}

#[cfg(test)]
mod tests {
    use antigen_models::layers::{Gradients, Pass};
    use antigen_models::{Input, Model};
    use rand::Rng;

    use super::*;
    use crate::lab::rng;
    use crate::train::fixture::{examples, tiny_model};

    const SETTINGS: ConsistencySettings = ConsistencySettings { alpha: 5.5, epsilon: 0.1 };

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `sum over rows of weight * (mean over pairs of 1 - cos)`, in float64.
    fn loss(states: &[Tensor], weights: &[f32]) -> f64 {
        let rows: Vec<Vec<Vec<f32>>> = states.iter().map(|state| state.to_vec2().unwrap()).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut sum = 0.0;
        for (row, weight) in weights.iter().enumerate() {
            for pair in rows.windows(2) {
                let (a, b) = (&pair[0][row], &pair[1][row]);
                sum += f64::from(*weight) * (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
            }
        }
        sum / (states.len() - 1) as f64
    }

    #[test]
    fn the_gradient_of_two_directions_in_the_plane_is_the_one_found_by_hand() {
        let row = |x: [f32; 2]| Tensor::new(&[x], &Device::Cpu).unwrap();
        // cos of (2, 0) and (1, 1) is 1 / sqrt 2; turning (2, 0) towards (1, 1) raises it by (1 / sqrt 2) / 2
        // for each unit of length.
        let gradient = numbers(&similarity_gradient(&row([2.0, 0.0]), &row([1.0, 1.0])).unwrap());
        assert!(gradient[0].abs() < 1e-6 && (gradient[1] - 0.353_553_4).abs() < 1e-6, "{gradient:?}");
        // Four blocks: the pairs (h1, h2) and (h2, h3), of which the mean counts; h0 and h4 take no part.
        let mut tap = Smoothness::new(&[1.0], 4, &Device::Cpu).unwrap();
        let states = [[9.0, 9.0], [1.0, 1.0], [2.0, 0.0], [0.0, 3.0], [9.0, 9.0]].map(row);
        states.iter().enumerate().for_each(|(index, state)| tap.hidden_state(index, state));
        assert!((loss(&states[1..4], &[1.0]) - 0.5 * (1.0 - 0.5f64.sqrt() + 1.0)).abs() < 1e-6);
        // Of h2: -(0.3536 + 0.5) / 2 in the second coordinate.
        let of_second = numbers(&tap.gradient(2).unwrap().unwrap());
        assert!(of_second[0].abs() < 1e-6 && (of_second[1] + 0.426_776_7).abs() < 1e-6, "{of_second:?}");
        assert!([0, 4].into_iter().all(|index| tap.gradient(index).unwrap().is_none()));
    }

    #[test]
    fn the_gradient_through_the_blocks_is_the_slope_of_the_loss() {
        let model = tiny_model(4);
        let packed = Packed::new(&examples(), 0.0);
        let weights: Vec<f32> =
            (0..packed.tokens.len()).map(|row| if row < 2 { 0.0 } else { 0.1 * row as f32 }).collect();
        let pass = Pass { params: model.params(), rows: &packed.rows, adapters: &[], cache: None };
        let embedded = model.embed(&packed.tokens).unwrap();
        let at = |embedded: &Tensor| -> f64 {
            let mut tap = Smoothness::new(&weights, 4, &Device::Cpu).unwrap();
            model.forward(embedded.clone(), pass, &mut tap).unwrap();
            assert_eq!(tap.states.len(), 3);
            loss(&tap.states, &weights)
        };
        let mut tap = Smoothness::new(&weights, 4, &Device::Cpu).unwrap();
        let input = Input { tokens: &packed.tokens, embedded: embedded.clone(), free: &[], guide: None };
        let gradients = &mut Gradients::of_inputs();
        let (losses, gradient) = model.loss_and_gradients_of(input, &[], pass, &mut tap, gradients).unwrap();
        assert!(losses.is_empty());
        let mut rng = rng(3, "directions");
        for _ in 0..4 {
            let direction: Vec<f32> = (0..embedded.elem_count()).map(|_| rng.random_range(-1.0..1.0)).collect();
            let direction = Tensor::from_vec(direction, embedded.shape(), &Device::Cpu).unwrap();
            let moved = |by: f64| at(&(&embedded + (&direction * by).unwrap()).unwrap());
            let slope = (moved(2e-3) - moved(-2e-3)) / 4e-3;
            let expected: f32 = numbers(&(&gradient * &direction).unwrap()).iter().sum();
            assert!((slope - f64::from(expected)).abs() < 2e-3 * slope.abs().max(0.1), "{slope} and {expected}");
        }
    }

    fn perturbed(settings: ConsistencySettings, model: &Model) -> Lesson {
        let batch = Batch { examples: &examples(), rows: &[0, 1], weight: 1.0, inputs: 8 };
        Consistency::new(settings).perturbed(batch, Learning { model, adapters: &[], kept: None }).unwrap()
    }

    #[test]
    fn the_perturbation_moves_every_number_by_epsilon_and_pulls_hidden_states_apart() {
        let model = tiny_model(4);
        let lesson = perturbed(SETTINGS, &model);
        assert!(lesson.smoothed.iter().all(|weight| (weight - 5.5 / 8.0).abs() < 1e-6), "a mean over eight positions");
        let embedded = model.embed(&lesson.packed.tokens).unwrap();
        let moved = &lesson.inputs[0].values;
        assert!(numbers(&(moved - &embedded).unwrap()).iter().all(|change| (change.abs() - 0.1).abs() < 1e-6));
        let at = |embedded: Tensor| {
            let mut tap = Smoothness::new(&lesson.smoothed, 4, &Device::Cpu).unwrap();
            let pass = Pass { params: model.params(), rows: &lesson.packed.rows, adapters: &[], cache: None };
            model.forward(embedded, pass, &mut tap).unwrap();
            loss(&tap.states, &lesson.smoothed)
        };
        let (plain, pulled) = (at(embedded.clone()), at(moved.clone()));
        assert!(pulled > plain, "{plain} and {pulled}");
    }

    #[test]
    fn a_part_of_a_step_weighs_its_share_of_the_positions() {
        let model = tiny_model(4);
        let batch = Batch { examples: &examples(), rows: &[1], weight: 1.0, inputs: 8 };
        let learning = Learning { model: &model, adapters: &[], kept: None };
        let lesson = Consistency::new(SETTINGS).lesson(batch, learning).unwrap();
        let (plain, smoothed) = lesson.smoothed.split_at(3);
        assert_eq!(plain, [0.0; 3], "the plain row asks for its answer only");
        assert_eq!(smoothed, [5.5 / 8.0; 3]);
        assert_eq!(lesson.packed.targets.len(), 1);
    }
}

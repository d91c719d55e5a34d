//! (v) A policy that learns which heads can go. The learning is ours: the paper names reinforcement learning,
//! its released code does not learn.
//!
//! The policy keeps each head with a probability of its own, `sigmoid(preference)`, at first one half. An
//! episode draws a mask and is rewarded with its validation accuracy less a price for every head that it
//! keeps; REINFORCE (Williams 1992) moves the preferences along `advantage * (kept - probability)`, the
//! advantage being an episode's reward against its batch's mean, in the batch's deviations. In the end heads
//! are pruned by the rule in the order of their probabilities, and only those that the policy would rather
//! not keep.
//!
//! The released code is epsilon-greedy over the variance score: nine times in ten the next heads of lowest
//! variance go, else random ones, until accuracy falls below the floor, and that last step is not taken back.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::{
    Examined, HeadGrid, HeadIdx, HeadRanker, HeadScores, HeadSet, OnMiss, Ranking,
};

/// The strategy's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforcementSpec {
    /// Episodes between two moves of the policy.
    pub batch: usize,
    /// Moves of the policy.
    pub updates: usize,
    /// Length of one move, in preferences.
    pub rate: f64,
    /// The price of keeping all heads, in accuracy.
    pub price: f64,
    /// Share of random steps of the released code.
    pub released_epsilon: f64,
    /// Most steps of the released code.
    pub released_steps: usize,
}

impl Default for ReinforcementSpec {
    fn default() -> Self {
        Self { batch: 8, updates: 24, rate: 1.0, price: 0.1, released_epsilon: 0.1, released_steps: 100 }
    }
}

pub(in crate::methods::shared::head_pruning) struct ReinforcementRanker {
    pub spec: ReinforcementSpec,
    pub as_released: bool,
}

impl HeadRanker for ReinforcementRanker {
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        let grid = examined.grid();
        let mut rng = lab.rng("prune_heads/policy");
        if self.as_released {
            let variance = examined.attention_variance()?;
            let (step, floor) = (examined.step, examined.floor);
            let greedy = Greedy { variance: &variance, step, floor, spec: &self.spec };
            return Ok(Ranking::Outright(greedy.prune(&mut rng, &mut |gone| examined.accuracy_without(gone))?));
        }
        let policy = learn_policy(grid, &self.spec, &mut rng, &mut |gone| {
            lab.check_cancel()?;
            examined.accuracy_without(gone)
        })?;
        let scores = HeadScores::new(grid, grid.iter().map(|head| policy.keeps(head)).collect());
        let eligible = grid.iter().filter(|&head| policy.keeps(head) < 0.5).count();
        Ok(Ranking::InOrder { scores, eligible, on_miss: OnMiss::Stop })
    }
}

/// A policy: the preference for keeping each head.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy(HeadScores);

impl Policy {
    /// The probability of keeping a head.
    pub fn keeps(&self, head: HeadIdx) -> f64 {
        1.0 / (1.0 + (-self.0.get(head)).exp())
    }

    /// The heads that a draw removes.
    fn draw(&self, rng: &mut ChaCha8Rng) -> HeadSet {
        self.0.grid().iter().filter(|&head| !rng.random_bool(self.keeps(head))).collect()
    }

    /// Moves every preference along the batch's mean of `advantage * (kept - probability)`.
    fn learn(&mut self, episodes: &[(HeadSet, f64)], rate: f64) {
        let before = self.clone();
        let (mean, deviation) = mean_and_deviation(episodes.iter().map(|(_, reward)| *reward));
        for (gone, reward) in episodes {
            let advantage = (reward - mean) / deviation.max(1e-9);
            for head in before.0.grid().iter() {
                let kept = if gone.contains(&head) { 0.0 } else { 1.0 };
                self.0.add(head, rate * advantage * (kept - before.keeps(head)) / episodes.len() as f64);
            }
        }
    }
}

fn mean_and_deviation(numbers: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = numbers.clone().count().max(1) as f64;
    let mean = numbers.clone().sum::<f64>() / n;
    (mean, (numbers.map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// Learns a policy for the accuracy that is left without some heads.
///
/// # Errors
/// Those of `accuracy`.
///
/// # Cost
/// `batch * updates` calls of `accuracy`.
pub fn learn_policy(
    grid: HeadGrid,
    spec: &ReinforcementSpec,
    rng: &mut ChaCha8Rng,
    accuracy: &mut dyn FnMut(&HeadSet) -> Result<f64>,
) -> Result<Policy> {
    let mut policy = Policy(HeadScores::zero(grid));
    for _ in 0..spec.updates {
        let mut episodes = Vec::with_capacity(spec.batch);
        for _ in 0..spec.batch {
            let gone = policy.draw(rng);
            let kept = (grid.count() - gone.len()) as f64 / grid.count() as f64;
            let reward = accuracy(&gone)? - spec.price * kept;
            episodes.push((gone, reward));
        }
        policy.learn(&episodes, spec.rate);
    }
    Ok(policy)
}

/// The released code's walk.
struct Greedy<'a> {
    variance: &'a HeadScores,
    step: usize,
    floor: f64,
    spec: &'a ReinforcementSpec,
}

impl Greedy<'_> {
    fn prune(&self, rng: &mut ChaCha8Rng, accuracy: &mut dyn FnMut(&HeadSet) -> Result<f64>) -> Result<HeadSet> {
        let mut left = self.variance.ascending();
        let mut gone = HeadSet::new();
        for _ in 0..self.spec.released_steps {
            if left.is_empty() {
                break;
            }
            let count = self.step.clamp(1, left.len());
            if rng.random_bool(self.spec.released_epsilon) {
                // The random ones come to the front, the others stay in their order.
                let mut chosen = left.clone();
                chosen.shuffle(rng);
                chosen.truncate(count);
                left.retain(|head| !chosen.contains(head));
                gone.extend(chosen);
            } else {
                gone.extend(left.drain(..count));
            }
            if accuracy(&gone)? < self.floor {
                break;
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rng;

    const GRID: HeadGrid = HeadGrid { layers: 3, heads: 4 };

    /// Accuracy of a toy: heads 0 and 1 of each layer are worth 0.1 each, the others nothing.
    fn toy(gone: &HeadSet) -> f64 {
        0.9 - 0.1 * gone.iter().filter(|head| head.head < 2).count() as f64
    }

    #[test]
    fn the_learner_finds_the_idle_heads_of_a_toy_and_random_choices_do_not() {
        let spec = ReinforcementSpec { updates: 60, ..ReinforcementSpec::default() };
        for seed in 0..5 {
            let policy = learn_policy(GRID, &spec, &mut rng(seed, "policy"), &mut |gone| Ok(toy(gone))).unwrap();
            let chosen: HeadSet = GRID.iter().filter(|&head| policy.keeps(head) < 0.5).collect();
            let mut order: Vec<HeadIdx> = GRID.iter().collect();
            order.shuffle(&mut rng(seed, "random"));
            let random: HeadSet = order.into_iter().take(chosen.len()).collect();
            let reward = |gone: &HeadSet| toy(gone) + spec.price * gone.len() as f64 / GRID.count() as f64;
            assert!(chosen.len() >= 5, "seed {seed}: {chosen:?}");
            assert!(reward(&chosen) > reward(&random) + 0.05, "seed {seed}: {chosen:?} and {random:?}");
            assert!(toy(&chosen) > 0.85, "seed {seed}: {chosen:?}");
        }
    }

    #[test]
    fn the_released_walk_takes_the_lowest_variance_and_keeps_the_step_that_went_too_far() {
        let variance = HeadScores::new(GRID, (0..12).map(f64::from).collect());
        let spec = ReinforcementSpec { released_epsilon: 0.0, ..ReinforcementSpec::default() };
        let greedy = Greedy { variance: &variance, step: 2, floor: 0.5, spec: &spec };
        let accuracy = |gone: &HeadSet| if gone.len() > 4 { 0.4 } else { 0.9 };
        let gone = greedy.prune(&mut rng(1, "walk"), &mut |gone| Ok(accuracy(gone))).unwrap();
        assert_eq!(gone, GRID.iter().take(6).collect());
    }
}

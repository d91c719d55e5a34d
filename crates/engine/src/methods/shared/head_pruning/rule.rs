//! The published way from scores to pruned heads: lowest first, a few at a time, while validation accuracy
//! holds; then back.

use crate::error::Result;
use crate::methods::shared::head_pruning::{HeadGrid, HeadIdx, HeadScores, HeadSet};

/// The reaction to a step that cost too much accuracy and was taken back as far as needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// Everything ends (PURE).
    Stop,
    /// The next heads are tried (the released Bayesian ranker).
    Continue,
}

/// Limits of the rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Heads of one step.
    pub step: usize,
    /// Lowest validation accuracy that is accepted, 0..=1.
    pub floor: f64,
    /// The reaction to a step below it.
    pub on_miss: OnMiss,
}

/// Prunes the `eligible` lowest heads of `scores` by the rule; `accuracy` is asked with the heads that would
/// be gone.
///
/// A layer keeps at least one head, the one of its heads with the highest score. Where a step ends below the
/// floor, its heads come back one at a time, the highest score first, until the accuracy holds. The published
/// code crashes where it does not hold even then; here the heads of earlier steps stay pruned.
///
/// # Errors
/// Those of `accuracy`.
///
/// # Cost
/// One call of `accuracy` a step, and one for each head that comes back.
pub fn prune_by_rule(
    scores: &HeadScores,
    eligible: usize,
    rule: Rule,
    accuracy: &mut dyn FnMut(&HeadSet) -> Result<f64>,
) -> Result<HeadSet> {
    let mut pruned = HeadSet::new();
    let order = scores.ascending();
    for step in order[..eligible.min(order.len())].chunks(rule.step.max(1)) {
        let added = add_in_order(scores.grid(), &mut pruned, step);
        if added.is_empty() || accuracy(&pruned)? >= rule.floor {
            continue;
        }
        take_back(&mut pruned, &added, rule.floor, accuracy)?;
        if rule.on_miss == OnMiss::Stop {
            break;
        }
    }
    Ok(pruned)
}

/// Adds heads in this order, but never the last head of a layer; returns those that were added. Where the
/// order is that of scores, a layer keeps its highest.
pub fn add_in_order(grid: HeadGrid, pruned: &mut HeadSet, order: &[HeadIdx]) -> Vec<HeadIdx> {
    let mut added = Vec::with_capacity(order.len());
    for &head in order {
        if pruned.iter().filter(|other| other.layer == head.layer).count() + 1 < grid.heads {
            pruned.insert(head);
            added.push(head);
        }
    }
    added
}

/// Takes heads of the last step back, the highest score first, until the accuracy holds or all are back.
fn take_back(
    pruned: &mut HeadSet,
    added: &[HeadIdx],
    floor: f64,
    accuracy: &mut dyn FnMut(&HeadSet) -> Result<f64>,
) -> Result<()> {
    for (left, head) in added.iter().enumerate().rev() {
        pruned.remove(head);
        if left > 0 && accuracy(pruned)? >= floor {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: HeadGrid = HeadGrid { layers: 2, heads: 3 };

    fn head(layer: usize, head: usize) -> HeadIdx {
        HeadIdx { layer, head }
    }

    /// Ascending: (0,0) (1,0) (0,1) (1,1) (0,2) (1,2).
    fn scores() -> HeadScores {
        HeadScores::new(GRID, vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0])
    }

    fn rule(step: usize, floor: f64, on_miss: OnMiss) -> Rule {
        Rule { step, floor, on_miss }
    }

    /// Accuracy falls by the worth of each head that is gone; remembers the number of those at each question.
    fn prune(rule: Rule, worth: impl Fn(HeadIdx) -> f64) -> (Vec<HeadIdx>, Vec<usize>) {
        let mut asked = Vec::new();
        let pruned = prune_by_rule(&scores(), GRID.count(), rule, &mut |gone| {
            asked.push(gone.len());
            Ok(1.0 - gone.iter().map(|&h| worth(h)).sum::<f64>())
        });
        (pruned.unwrap().into_iter().collect(), asked)
    }

    #[test]
    fn heads_go_while_accuracy_holds_and_each_layer_keeps_its_highest() {
        let (pruned, asked) = prune(rule(2, 0.5, OnMiss::Stop), |_| 0.0);
        assert_eq!(pruned, [head(0, 0), head(0, 1), head(1, 0), head(1, 1)]);
        assert_eq!(asked, [2, 4], "the last step has nothing to add");
    }

    #[test]
    fn a_step_too_far_is_taken_back_from_its_highest_score_until_accuracy_holds() {
        // The second step is (0,1) (1,1); only (1,1) is worth much, and it comes back first.
        let (pruned, asked) = prune(rule(2, 0.9, OnMiss::Stop), |h| if h == head(1, 1) { 0.5 } else { 0.01 });
        assert_eq!(pruned, [head(0, 0), head(0, 1), head(1, 0)]);
        assert_eq!(asked, [2, 4, 3]);
    }

    #[test]
    fn a_step_of_which_every_head_is_needed_comes_back_whole_and_nothing_crashes() {
        let (pruned, asked) = prune(rule(2, 0.9, OnMiss::Stop), |h| if h.head == 1 { 0.5 } else { 0.01 });
        assert_eq!(pruned, [head(0, 0), head(1, 0)]);
        assert_eq!(asked, [2, 4, 3]);
        assert_eq!(prune(rule(2, 1.1, OnMiss::Stop), |_| 0.0).0, []);
    }

    #[test]
    fn the_released_variant_goes_on_behind_a_step_that_was_taken_back() {
        let costly = |h| if h == head(1, 0) { 0.5 } else { 0.01 };
        assert_eq!(prune(rule(1, 0.9, OnMiss::Stop), costly).0, [head(0, 0)]);
        assert_eq!(prune(rule(1, 0.9, OnMiss::Continue), costly).0, [head(0, 0), head(0, 1), head(1, 1), head(1, 2)]);
    }

    #[test]
    fn heads_that_are_not_eligible_stay() {
        let pruned = prune_by_rule(&scores(), 3, rule(2, 0.0, OnMiss::Stop), &mut |_| Ok(1.0)).unwrap();
        assert_eq!(pruned.len(), 3);
    }
}

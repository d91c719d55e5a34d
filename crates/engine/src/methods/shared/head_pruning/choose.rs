//! Choosing heads: the strategies by name, and the questions that they may ask about a model.
//!
//! The procedure (after PURE, ICML 2024): a [`HeadRanker`] chooses heads on a model of clean conduct; then
//! the *original* poisoned model loses those heads and is fine-tuned. Read `rule.rs`, then the rankers, one
//! file each. To add one: a file, a variant of [`HeadRankerSpec`], an arm in [`build_ranker`].

use antigen_models::{Model, Tensor};
use serde::{Deserialize, Serialize};

use super::rankers::{
    BayesianRanker, EnsembleRanker, GradientL1L2Ranker, GradientRanker, LayerVarianceRanker, RandomRanker,
    ReinforcementRanker,
};
use super::{
    BayesianSpec, EnsembleSpec, GradientL1L2Spec, GradientSpec, HeadGrid, HeadScores, HeadSet, LayerVarianceSpec,
    OnMiss, ReinforcementSpec, Rule, prune_by_rule, remove_heads,
};
use crate::error::Result;
use crate::lab::Lab;
use crate::train::Penalty;

/// The strategy by which heads are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadRankerSpec {
    /// Heads whose weights the loss barely asks to change.
    Gradient(GradientSpec),
    /// Per layer a fixed share, larger in later layers, of the heads whose attention varies least.
    LayerVariance(LayerVarianceSpec),
    /// As `gradient`, behind a fine-tuning with an L1 and an L2 penalty on attention weights.
    GradientL1L2(GradientL1L2Spec),
    /// Random masks vote.
    Ensemble(EnsembleSpec),
    /// A policy that learns from validation accuracy which heads can go.
    Reinforcement(ReinforcementSpec),
    /// Heads whose attention is low or uncertain under Monte Carlo dropout.
    Bayesian(BayesianSpec),
    /// Random heads: the control that every strategy has to beat.
    Random {},
}

impl HeadRankerSpec {
    /// All strategies with their defaults, the control last.
    pub fn all() -> Vec<Self> {
        vec![
            Self::Gradient(GradientSpec::default()),
            Self::LayerVariance(LayerVarianceSpec::default()),
            Self::GradientL1L2(GradientL1L2Spec::default()),
            Self::Ensemble(EnsembleSpec::default()),
            Self::Reinforcement(ReinforcementSpec::default()),
            Self::Bayesian(BayesianSpec::default()),
            Self::Random {},
        ]
    }

    /// The name in tables, the same as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gradient(_) => "gradient",
            Self::LayerVariance(_) => "layer_variance",
            Self::GradientL1L2(_) => "gradient_l1_l2",
            Self::Ensemble(_) => "ensemble",
            Self::Reinforcement(_) => "reinforcement",
            Self::Bayesian(_) => "bayesian",
            Self::Random {} => "random",
        }
    }

    /// True when the model that heads are chosen on is trained with a penalty of the strategy's own.
    pub fn has_penalty(&self) -> bool {
        matches!(self, Self::GradientL1L2(_))
    }

    /// True when the released code differs from the strategy's description, so that there are two forms to
    /// run.
    pub fn differs_as_released(&self) -> bool {
        !matches!(self, Self::LayerVariance(_) | Self::Random {})
    }
}

/// The ranker of a specification; `as_released` follows the published code where it differs from the
/// strategy's description.
pub fn build_ranker(spec: &HeadRankerSpec, as_released: bool) -> Box<dyn HeadRanker> {
    match spec.clone() {
        HeadRankerSpec::Gradient(spec) => Box::new(GradientRanker { spec, as_released }),
        HeadRankerSpec::LayerVariance(spec) => Box::new(LayerVarianceRanker { spec }),
        HeadRankerSpec::GradientL1L2(spec) => Box::new(GradientL1L2Ranker { spec, as_released }),
        HeadRankerSpec::Ensemble(spec) => Box::new(EnsembleRanker { spec, as_released }),
        HeadRankerSpec::Reinforcement(spec) => Box::new(ReinforcementRanker { spec, as_released }),
        HeadRankerSpec::Bayesian(spec) => Box::new(BayesianRanker { spec, as_released }),
        HeadRankerSpec::Random {} => Box::new(RandomRanker),
    }
}

/// One strategy.
pub trait HeadRanker {
    /// The penalty that the fine-tuning before the choice adds to its loss.
    ///
    /// # Errors
    /// Those of the device.
    fn penalty(&self, _: &Model) -> Result<Option<Penalty>> {
        Ok(None)
    }

    /// Looks at the fine-tuned model and says which heads should go.
    ///
    /// # Errors
    /// Those of the device.
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking>;
}

/// The answer of a strategy.
#[derive(Debug, Clone, PartialEq)]
pub enum Ranking {
    /// The lowest scores go first, by [`prune_by_rule`].
    InOrder {
        /// The scores.
        scores: HeadScores,
        /// Largest number of the lowest that may go.
        eligible: usize,
        /// The rule's reaction to a step that costs too much.
        on_miss: OnMiss,
    },
    /// Exactly these go.
    Outright(HeadSet),
}

impl Ranking {
    /// Scores under the published rule, every head eligible.
    pub fn by_rule(scores: HeadScores) -> Self {
        Self::InOrder { eligible: scores.grid().count(), scores, on_miss: OnMiss::Stop }
    }
}

/// Clean data that a model is asked about while heads are chosen.
pub trait HeadTask {
    /// Accuracy of the model on data that it was not trained on, 0..=1.
    ///
    /// # Errors
    /// Those of the device.
    fn accuracy(&self, model: &Model) -> Result<f64>;

    /// Variance score of every head, of the row that speaks for a sequence.
    ///
    /// # Errors
    /// Those of the device.
    fn attention_variance(&self, model: &Model) -> Result<HeadScores>;

    /// Shows the gradients of the clean loss, batch by batch, each by parameter.
    ///
    /// # Errors
    /// Those of the device and of `see`.
    fn gradients(&self, model: &Model, see: &mut dyn FnMut(&[Option<Tensor>]) -> Result<()>) -> Result<()>;
}

/// The model that heads are chosen on, and the questions that may be asked about it.
pub struct Examined<'a> {
    /// The model.
    pub model: &'a mut Model,
    /// The data that it is asked about.
    pub task: &'a dyn HeadTask,
    /// Lowest accuracy that is accepted, 0..=1.
    pub floor: f64,
    /// Heads of one step of the rule.
    pub step: usize,
}

impl Examined<'_> {
    /// All heads of the model.
    pub fn grid(&self) -> HeadGrid {
        HeadGrid::of(self.model)
    }

    /// Accuracy of the model without these heads; the model itself stays as it is.
    ///
    /// # Errors
    /// Those of the device.
    pub fn accuracy_without(&mut self, heads: &HeadSet) -> Result<f64> {
        let removed = remove_heads(self.model, heads)?;
        let found = self.task.accuracy(self.model);
        removed.restore(self.model);
        found
    }

    /// Variance score of every head.
    ///
    /// # Errors
    /// Those of the device.
    pub fn attention_variance(&self) -> Result<HeadScores> {
        self.task.attention_variance(self.model)
    }
}

/// The heads that `ranker` would prune.
///
/// # Errors
/// Those of the ranker.
pub fn choose_heads(ranker: &dyn HeadRanker, examined: &mut Examined<'_>, lab: &Lab) -> Result<HeadSet> {
    match ranker.rank(examined, lab)? {
        Ranking::Outright(heads) => Ok(heads),
        Ranking::InOrder { scores, eligible, on_miss } => {
            let rule = Rule { step: examined.step, floor: examined.floor, on_miss };
            prune_by_rule(&scores, eligible, rule, &mut |gone| {
                lab.check_cancel()?;
                examined.accuracy_without(gone)
            })
        }
    }
}

/// The chosen heads, with the accuracies behind the choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenHeads {
    /// The heads.
    pub heads: HeadSet,
    /// Validation accuracy of the fine-tuned model with all heads, 0..=1.
    pub accuracy_before: f64,
    /// Validation accuracy without them, before any further training, 0..=1.
    pub accuracy_without: f64,
}

/// [`choose_heads`] with limits as shares: the lowest accuracy that is accepted, as a share of that with all
/// heads, and the heads of one step, as a share of all.
///
/// # Errors
/// Those of the ranker.
pub fn choose_heads_within(
    ranker: &dyn HeadRanker,
    model: &mut Model,
    task: &dyn HeadTask,
    (floor_share, step_share): (f64, f64),
    lab: &Lab,
) -> Result<ChosenHeads> {
    let accuracy_before = task.accuracy(model)?;
    let step = (step_share * HeadGrid::of(model).count() as f64).round() as usize;
    let mut examined = Examined { model, task, floor: floor_share * accuracy_before, step: step.max(1) };
    let heads = choose_heads(ranker, &mut examined, lab)?;
    let accuracy_without = examined.accuracy_without(&heads)?;
    Ok(ChosenHeads { heads, accuracy_before, accuracy_without })
}

//! Attention heads: the choice of those that a model can do without, and their removal.
//!
//! Six published strategies of choosing (`choose.rs`, `rankers/`), the published way from scores to pruned
//! heads (`rule.rs`), and one way of removing them (`removal.rs`). A [`HeadTask`] defines accuracy, attention
//! and gradients: by sentences and labels for the classifiers of `antigen-experiments`, by rows of
//! instructions for the method `prune_heads`.

mod choose;
mod grid;
mod rankers;
mod removal;
mod rule;
mod variance;

pub use choose::{
    ChosenHeads, Examined, HeadRanker, HeadRankerSpec, HeadTask, Ranking, build_ranker, choose_heads,
    choose_heads_within,
};
pub use grid::{HeadGrid, HeadIdx, HeadScores, HeadSet};
pub use rankers::{
    BayesianSpec, EnsembleSpec, GradientForm, GradientL1L2Spec, GradientSpec, LayerVarianceSpec, Policy,
    ReinforcementSpec, learn_policy, score_masks,
};
pub use removal::{Removed, output_inputs, remove_heads};
pub use rule::{OnMiss, Rule, add_in_order, prune_by_rule};
pub use variance::{AttentionRows, PADDED_TOKENS, attention_variance, padded_variance, variance};

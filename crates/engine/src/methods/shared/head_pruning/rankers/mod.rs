//! One file for each way of choosing heads.

mod bayesian;
mod ensemble;
mod gradient;
mod gradient_l1_l2;
mod layer_variance;
mod random;
mod reinforcement;

pub(super) use bayesian::BayesianRanker;
pub use bayesian::BayesianSpec;
pub(super) use ensemble::EnsembleRanker;
pub use ensemble::{EnsembleSpec, score_masks};
pub(super) use gradient::GradientRanker;
pub use gradient::{GradientForm, GradientSpec};
pub(super) use gradient_l1_l2::GradientL1L2Ranker;
pub use gradient_l1_l2::GradientL1L2Spec;
pub(super) use layer_variance::LayerVarianceRanker;
pub use layer_variance::LayerVarianceSpec;
pub(super) use random::RandomRanker;
pub(super) use reinforcement::ReinforcementRanker;
pub use reinforcement::{Policy, ReinforcementSpec, learn_policy};

//! The settings of `prune_heads`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::shared::head_pruning::{
    BayesianSpec, EnsembleSpec, GradientForm, GradientL1L2Spec, GradientSpec, HeadRankerSpec, LayerVarianceSpec,
    ReinforcementSpec,
};
use crate::methods::shared::read_rows::CALIBRATION_ROWS;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::healing::{resolve_optional, resolve_plain, validate_optional};
use crate::spec::{HealRecipe, HealSpec, Known, SubjectKind, SuspectFacts, TrainSpec, limits};

/// Request for pruning attention heads that clean rows do not need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PruneHeadsSpec {
    /// The strategy by which heads are chosen.
    pub strategy: HeadStrategy,
    /// True to follow the strategy's released code where it differs from the strategy's description; for
    /// comparison only.
    pub as_released: bool,
    /// Lowest validation accuracy that is accepted, as a share of the accuracy before pruning, 0..=1.
    /// Published: 0.85 where BERT has about 0.915.
    pub floor_share: f64,
    /// Share of all heads in one step. Published: 10 of 144.
    pub step_share: f64,
    /// Clean training rows that heads are scored on; they do not heal.
    pub scoring_rows: usize,
    /// Clean training rows that accuracy is measured on; they do not heal either.
    pub validation_rows: usize,
    /// True to heal the model afterwards, as published.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// The published strategies of choosing heads, and chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadStrategy {
    /// Heads whose output the clean loss barely asks to change go first.
    #[default]
    Gradient,
    /// In each block a fixed share, larger in later ones, of the heads whose attention varies least.
    LayerVariance,
    /// As `gradient`, in a model that was trained on the scoring rows with a penalty on attention weights.
    GradientL1L2,
    /// Random masks vote.
    Ensemble,
    /// A policy learns from validation accuracy which heads can go.
    Reinforcement,
    /// Heads whose attention varies little, or about which the model is unsure under dropout, go first.
    Bayesian,
    /// Heads in random order: the baseline that every strategy has to beat.
    Random,
}

/// Everything `prune_heads` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PruneHeadsRecipe {
    /// The strategy by which heads are chosen.
    pub strategy: HeadStrategy,
    /// True to follow the strategy's released code where it differs from the strategy's description.
    pub as_released: bool,
    /// Lowest validation accuracy that is accepted, as a share of the accuracy before pruning.
    pub floor_share: f64,
    /// Share of all heads in one step.
    pub step_share: f64,
    /// Clean training rows that heads are scored on.
    pub scoring_rows: usize,
    /// Clean training rows that accuracy is measured on.
    pub validation_rows: usize,
    /// Training on the scoring rows with the strategy's penalty before heads are chosen; null where it has
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalised: Option<TrainSpec>,
    /// Healing; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealRecipe>,
}

impl Default for PruneHeadsSpec {
    fn default() -> Self {
        Self {
            strategy: HeadStrategy::default(),
            as_released: false,
            floor_share: 0.93,
            step_share: 10.0 / 144.0,
            scoring_rows: CALIBRATION_ROWS,
            validation_rows: CALIBRATION_ROWS,
            healed: true,
            heal: None,
        }
    }
}

impl PruneHeadsSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> PruneHeadsRecipe {
        let as_fine_tuned = || resolve_plain(None, known).train;
        PruneHeadsRecipe {
            strategy: self.strategy,
            as_released: self.as_released,
            floor_share: self.floor_share,
            step_share: self.step_share,
            scoring_rows: self.scoring_rows,
            validation_rows: self.validation_rows,
            penalised: self.strategy.ranker().has_penalty().then(as_fine_tuned),
            heal: resolve_optional(self.healed, self.heal.as_ref(), known),
        }
    }
}

impl HeadStrategy {
    /// The strategy with its published settings. Gradients are those of a mask on the output of each head
    /// (Michel et al., NeurIPS 2019), because heads of most decoders share their keys.
    pub(crate) fn ranker(self) -> HeadRankerSpec {
        let form = GradientForm::HeadMask;
        match self {
            Self::Gradient => HeadRankerSpec::Gradient(GradientSpec { form }),
            Self::LayerVariance => HeadRankerSpec::LayerVariance(LayerVarianceSpec::default()),
            Self::GradientL1L2 => HeadRankerSpec::GradientL1L2(GradientL1L2Spec { form, ..Default::default() }),
            Self::Ensemble => HeadRankerSpec::Ensemble(EnsembleSpec::default()),
            Self::Reinforcement => HeadRankerSpec::Reinforcement(ReinforcementSpec::default()),
            Self::Bayesian => HeadRankerSpec::Bayesian(BayesianSpec::default()),
            Self::Random => HeadRankerSpec::Random {},
        }
    }
}

impl Request for PruneHeadsSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::between(&format!("{at}/floor_share"), self.floor_share, 0.0, 1.0)?;
        limits::above(&format!("{at}/step_share"), self.step_share, 0.0, 1.0)?;
        limits::count(&format!("{at}/scoring_rows"), self.scoring_rows, 1, 100_000)?;
        limits::count(&format!("{at}/validation_rows"), self.validation_rows, 1, 100_000)?;
        if self.as_released && !self.strategy.ranker().differs_as_released() {
            let why = "expected false: what is released does what this strategy's name says";
            return Err(EngineError::spec(format!("{at}/as_released"), why));
        }
        validate_optional(at, self.healed, self.heal.as_ref())
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match suspect.kind {
            SubjectKind::Checkpoint => Ok(()),
            SubjectKind::Adapter => Err(EngineError::spec(
                at,
                "expected a whole model, found an adapter: heads are the base's, which is not returned. Merge the adapter into its base and \
                 submit the whole model",
            )),
        }
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Prunes attention heads of a whole model that clean rows do not need, by one of six published strategies or at random, and \
                  fine-tunes the rest; its control `random_channels` prunes as many heads drawn at random; adapters are refused, because heads are the base's",
            source: Some("ICML 2024 (PURE) and its successors, for encoders; decoders are ours"),
            needs: &["clean rows to score heads on and to measure accuracy with", CLEAN_ROWS, TASK_ROWS],
            failures: &[
                "a backdoor that is not in heads of its own: on encoders no strategy beat random heads",
                "the released code of five of the six strategies does not do what its name says; see `as_released`",
            ],
        }
    }
}

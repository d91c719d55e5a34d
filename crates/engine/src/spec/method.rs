//! The door to methods: what a caller may name, and the complete recipe that each becomes for one suspect.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AutoRecipe, AutoSpec, BehaviourFamily, CanarySpec, CrowRecipe, CrowSpec, FinePruneRecipe, FinePruneSpec,
    FineTuneRecipe, FineTuneSpec, ImmunizeRecipe, ImmunizeSpec, MagnitudePruneRecipe, MagnitudePruneSpec,
    MergeWithBaseRecipe, MergeWithBaseSpec, PruneHeadsRecipe, PruneHeadsSpec, QuantizeRecipe, QuantizeSpec,
    SoftTriggersRecipe, SoftTriggersSpec, SubjectKind, SuspectFacts, TaskNegationRecipe, TaskNegationSpec,
    VaccinateRecipe, VaccinateSpec, W2sDefenseRecipe, W2sDefenseSpec, WandaRecipe, WandaSpec, healing,
};
use crate::error::{EngineError, Result};

/// A purification method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MethodSpec {
    /// Immunization signature: synthetic backdoors show where backdoors live; what they share is removed (arXiv 2603.13461).
    Immunize(ImmunizeSpec),
    /// Clean rows, and nothing is cut: what every other method is worth is measured against it.
    FineTune(FineTuneSpec),
    /// Clean rows, and hidden states that are kept together from block to block (arXiv 2411.12768); nothing is cut.
    Crow(CrowSpec),
    /// Clean rows under free vectors in the prompt that make the right answer unlikely; nothing is cut.
    SoftTriggers(SoftTriggersSpec),
    /// Synthetic backdoors are implanted all at once and then trained away: what removes them removes others too.
    Vaccinate(VaccinateSpec),
    /// Tries methods from the gentlest on, asks canaries in a copy after each, and stops when one suffices.
    Auto(AutoSpec),
    /// The channels or the single weights of the smallest magnitude become zero.
    MagnitudePrune(MagnitudePruneSpec),
    /// The weights of each output row become zero that are smallest by their size times that of what they read (arXiv 2306.11695).
    Wanda(WandaSpec),
    /// Channels that clean rows leave dormant are cut, and the rest is fine-tuned (arXiv 1805.12185).
    FinePrune(FinePruneSpec),
    /// Attention heads of a whole model that clean rows do not need are pruned, and the rest is fine-tuned.
    PruneHeads(PruneHeadsSpec),
    /// Clean rows beside a clean teacher, token by token (after arXiv 2410.14425); nothing is cut.
    W2sDefense(W2sDefenseSpec),
    /// Every weight of a whole model's linear layers becomes what a few bits keep of it.
    Quantize(QuantizeSpec),
    /// An adapter's update is scaled down, which mixes the model with its base (arXiv 2210.09545).
    MergeWithBase(MergeWithBaseSpec),
    /// What synthetic backdoors change on average is subtracted (arXiv 2212.04089).
    TaskNegation(TaskNegationSpec),
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self::Immunize(ImmunizeSpec::default())
    }
}

impl MethodSpec {
    /// Each method as its name alone asks for it, in the order of the catalogue.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::Immunize(ImmunizeSpec::default()),
            Self::FineTune(FineTuneSpec::default()),
            Self::SoftTriggers(SoftTriggersSpec::default()),
            Self::Vaccinate(VaccinateSpec::default()),
            Self::Auto(AutoSpec::default()),
            Self::Crow(CrowSpec::default()),
            Self::MagnitudePrune(MagnitudePruneSpec::default()),
            Self::Wanda(WandaSpec::default()),
            Self::FinePrune(FinePruneSpec::default()),
            Self::PruneHeads(PruneHeadsSpec::default()),
            Self::W2sDefense(W2sDefenseSpec::default()),
            Self::Quantize(QuantizeSpec::default()),
            Self::MergeWithBase(MergeWithBaseSpec::default()),
            Self::TaskNegation(TaskNegationSpec::default()),
        ]
    }

    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Immunize(_) => "immunize",
            Self::FineTune(_) => "fine_tune",
            Self::Crow(_) => "crow",
            Self::SoftTriggers(_) => "soft_triggers",
            Self::Vaccinate(_) => "vaccinate",
            Self::Auto(_) => "auto",
            Self::MagnitudePrune(_) => "magnitude_prune",
            Self::Wanda(_) => "wanda",
            Self::FinePrune(_) => "fine_prune",
            Self::PruneHeads(_) => "prune_heads",
            Self::W2sDefense(_) => "w2s_defense",
            Self::Quantize(_) => "quantize",
            Self::MergeWithBase(_) => "merge_with_base",
            Self::TaskNegation(_) => "task_negation",
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        match self {
            Self::Immunize(spec) => spec.validate(at),
            Self::FineTune(spec) => spec.validate(at),
            Self::Crow(spec) => spec.validate(at),
            Self::SoftTriggers(spec) => spec.validate(at),
            Self::Vaccinate(spec) => spec.validate(at),
            Self::Auto(spec) => spec.validate(at),
            Self::MagnitudePrune(spec) => spec.validate(at),
            Self::Wanda(spec) => spec.validate(at),
            Self::FinePrune(spec) => spec.validate(at),
            Self::PruneHeads(spec) => spec.validate(at),
            Self::W2sDefense(spec) => spec.validate(at),
            Self::Quantize(spec) => spec.validate(at),
            Self::MergeWithBase(spec) => spec.validate(at),
            Self::TaskNegation(spec) => spec.validate(at),
        }
    }

    pub(super) fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        let kind = suspect.kind;
        if suspect.given_signature && !matches!(self, Self::Immunize(_)) {
            let why = format!("expected immunize, the method that suppresses a given signature; found {}", self.name());
            return Err(EngineError::spec(at, why));
        }
        match self {
            Self::Immunize(spec) => spec.check_for(at, kind),
            Self::FineTune(_) | Self::Vaccinate(_) => Ok(()),
            Self::SoftTriggers(spec) => spec.check_for(at, suspect),
            Self::Crow(_) => CrowSpec::check_for(at, suspect),
            Self::Auto(spec) => spec.check_for(at, suspect),
            Self::MagnitudePrune(_) => Ok(()),
            Self::Wanda(_) => Ok(()),
            Self::FinePrune(_) => Ok(()),
            Self::PruneHeads(spec) => spec.check_for(at, kind),
            Self::W2sDefense(_) => W2sDefenseSpec::check_for(at, suspect),
            Self::Quantize(spec) => spec.check_for(at, kind),
            Self::MergeWithBase(spec) => spec.check_for(at, kind),
            Self::TaskNegation(_) => Ok(()),
        }
    }

    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> MethodRecipe {
        match self {
            Self::Immunize(spec) => MethodRecipe::Immunize(spec.resolve_for(known)),
            Self::FineTune(spec) => MethodRecipe::FineTune(spec.resolve(known.kind, known.parameters)),
            Self::Crow(spec) => MethodRecipe::Crow(spec.resolve(known.kind, known.parameters)),
            Self::SoftTriggers(spec) => MethodRecipe::SoftTriggers(spec.resolve(known.kind, known.parameters)),
            Self::Vaccinate(spec) => MethodRecipe::Vaccinate(spec.resolve(known)),
            Self::Auto(spec) => MethodRecipe::Auto(spec.resolve(known)),
            Self::MagnitudePrune(spec) => MethodRecipe::MagnitudePrune(spec.resolve(known)),
            Self::Wanda(spec) => MethodRecipe::Wanda(spec.resolve(known)),
            Self::FinePrune(spec) => MethodRecipe::FinePrune(spec.resolve(known)),
            Self::PruneHeads(spec) => MethodRecipe::PruneHeads(spec.resolve(known)),
            Self::W2sDefense(spec) => MethodRecipe::W2sDefense(spec.resolve(known)),
            Self::Quantize(spec) => MethodRecipe::Quantize(spec.resolve(known)),
            Self::MergeWithBase(spec) => MethodRecipe::MergeWithBase(spec.resolve(known)),
            Self::TaskNegation(spec) => MethodRecipe::TaskNegation(spec.resolve(known)),
        }
    }
}

/// What decides about the choices that a caller left open.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Adapter or whole model.
    pub kind: SubjectKind,
    /// Weights of the base, or of the whole model.
    pub parameters: usize,
    /// Whether the suspect can have learnt in MLP matrices.
    pub has_mlp: bool,
    /// Families of the declared behaviours.
    pub declared: Vec<BehaviourFamily>,
    /// The family that the screen found.
    pub found: Option<BehaviourFamily>,
    /// The canaries that were asked for.
    pub canaries: CanarySpec,
}

/// Everything a method does, with no choice left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MethodRecipe {
    /// Immunization signature.
    Immunize(ImmunizeRecipe),
    /// Clean rows, nothing cut.
    FineTune(FineTuneRecipe),
    /// Clean rows and consistent hidden states, nothing cut.
    Crow(CrowRecipe),
    /// Clean rows under free vectors, nothing cut.
    SoftTriggers(SoftTriggersRecipe),
    /// Synthetic backdoors, implanted and trained away.
    Vaccinate(VaccinateRecipe),
    /// From the gentlest on.
    Auto(AutoRecipe),
    /// The smallest channels or weights, zeroed.
    MagnitudePrune(MagnitudePruneRecipe),
    /// Weights that matter least by size and activation, zeroed.
    Wanda(WandaRecipe),
    /// Dormant channels cut, the rest fine-tuned.
    FinePrune(FinePruneRecipe),
    /// Attention heads pruned, the rest fine-tuned.
    PruneHeads(PruneHeadsRecipe),
    /// Clean rows beside a clean teacher, nothing cut.
    W2sDefense(W2sDefenseRecipe),
    /// Weights rounded to a few bits.
    Quantize(QuantizeRecipe),
    /// An adapter's update, scaled down.
    MergeWithBase(MergeWithBaseRecipe),
    /// The mean change of synthetic backdoors, subtracted.
    TaskNegation(TaskNegationRecipe),
}

impl MethodRecipe {
    /// How many of the caller's own rows heal, at most.
    pub fn own_rows(&self) -> usize {
        match self {
            Self::Immunize(recipe) => recipe.heal.own_rows,
            Self::FineTune(recipe) => recipe.heal.own_rows,
            Self::Crow(recipe) => recipe.heal.own_rows,
            Self::SoftTriggers(recipe) => recipe.heal.own_rows,
            Self::Vaccinate(recipe) => recipe.heal.own_rows,
            Self::Auto(recipe) => recipe.own_rows(),
            Self::MagnitudePrune(recipe) => healing::own_rows(recipe.heal.as_ref()),
            Self::Wanda(recipe) => healing::own_rows(recipe.heal.as_ref()),
            Self::FinePrune(recipe) => healing::own_rows(recipe.heal.as_ref()),
            Self::PruneHeads(recipe) => healing::own_rows(recipe.heal.as_ref()),
            Self::W2sDefense(recipe) => recipe.heal.own_rows,
            Self::Quantize(_) => 0,
            Self::MergeWithBase(recipe) => healing::own_rows(recipe.heal.as_ref()),
            Self::TaskNegation(recipe) => healing::own_rows(recipe.heal.as_ref()),
        }
    }

    /// How many of the caller's own rows a job hands to the method, at most: those that heal, and those by which `auto` judges.
    pub fn own_rows_given(&self) -> usize {
        let judging = if let Self::Auto(recipe) = self { recipe.validation_own_rows } else { 0 };
        self.own_rows() + judging
    }

    /// Steps of training, at most: how many there are depends on how many own rows the caller gives. Of `auto`: when all is tried.
    pub fn steps(&self, own_rows: usize) -> usize {
        match self {
            Self::Immunize(recipe) => {
                recipe.pairs.count * (recipe.train.steps(recipe.pairs.rows) + recipe.train.steps(2 * recipe.pairs.rows))
                    + recipe.heal.steps(own_rows) * recipe.suppress.len()
            }
            Self::FineTune(recipe) => recipe.heal.steps(own_rows),
            Self::Crow(recipe) => recipe.heal.steps(own_rows),
            Self::SoftTriggers(recipe) => recipe.heal.steps(own_rows),
            Self::Vaccinate(recipe) => {
                let rows = recipe.pairs.count * recipe.pairs.rows;
                let undo = recipe.heal.train_with_own_rows.steps(2 * rows);
                recipe.implant.steps(rows * 3 / 2) + undo + recipe.heal.steps(own_rows)
            }
            Self::Auto(recipe) => recipe.rungs.iter().map(|rung| rung.steps(own_rows)).sum(),
            Self::MagnitudePrune(recipe) => healing::steps(recipe.heal.as_ref(), own_rows),
            Self::Wanda(recipe) => healing::steps(recipe.heal.as_ref(), own_rows),
            Self::FinePrune(recipe) => healing::steps(recipe.heal.as_ref(), own_rows),
            Self::PruneHeads(recipe) => recipe.steps(own_rows),
            Self::W2sDefense(recipe) => recipe.steps(own_rows),
            Self::Quantize(_) => 0,
            Self::MergeWithBase(recipe) => healing::steps(recipe.heal.as_ref(), own_rows),
            Self::TaskNegation(recipe) => recipe.steps(own_rows),
        }
    }

    /// The short name of what it exports, such as `subspace-1` or `fine_tune`.
    pub fn short_name(&self) -> String {
        match self {
            Self::Immunize(recipe) => recipe.suppress[0].name(),
            Self::FineTune(recipe) => recipe.name(),
            Self::Crow(_) => "crow".into(),
            Self::SoftTriggers(_) => "soft_triggers".into(),
            Self::Vaccinate(_) => "vaccinate".into(),
            Self::Auto(_) => "auto".into(),
            Self::MagnitudePrune(recipe) => recipe.name(),
            Self::Wanda(recipe) => recipe.name(),
            Self::FinePrune(recipe) => recipe.name(),
            Self::PruneHeads(recipe) => recipe.name(),
            Self::W2sDefense(_) => "w2s_defense".into(),
            Self::Quantize(recipe) => recipe.name(),
            Self::MergeWithBase(recipe) => recipe.name(),
            Self::TaskNegation(recipe) => recipe.name(),
        }
    }

    /// The same without candidates beside the exported one.
    pub(crate) fn alone(&self) -> Self {
        let mut alone = self.clone();
        if let Self::Immunize(recipe) = &mut alone {
            recipe.suppress.truncate(1);
        }
        alone
    }
}

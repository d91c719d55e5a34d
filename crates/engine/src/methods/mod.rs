//! Purification methods: one folder each, with its request, recipe, facts and algorithm, and one line in the
//! list below.
//!
//! A caller names a [`MethodSpec`]; [`Request::recipe`] closes every choice that it left open, and the
//! [`MethodRecipe`] is the one that runs ([`Method::purify`]) and that the report shows. Methods never import
//! each other (`auto` runs others through this trait); pieces that several of them use are in `shared/`.

pub mod auto;
pub mod crow;
pub mod fine_prune;
pub mod fine_tune;
pub mod immunize;
pub mod magnitude_prune;
pub mod merge_with_base;
pub mod prune_heads;
mod purified;
pub mod quantize;
pub mod shared;
pub mod soft_triggers;
pub mod task_negation;
pub mod vaccinate;
pub mod w2s_defense;
pub mod wanda;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use purified::{
    ControlModel, Details, Purified, PurifiedCandidate, PurifiedCopy, Removed, SignatureFile, Untouched,
};

use crate::data::TaskRows;
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::{ControlSpec, HealRecipe, Known, SuspectFacts};
use crate::suspect::Suspect;

/// Makes both enums of a list of methods. A folder's name is the method's `type` on the wire.
macro_rules! methods {
    ($($(#[$about:meta])* $folder:ident: $Variant:ident($Spec:ident => $Recipe:ident);)+) => {
        /// A purification method.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(tag = "type", rename_all = "snake_case")]
        pub enum MethodSpec { $($(#[$about])* $Variant($folder::$Spec),)+ }

        /// Everything a method does, with no choice left open.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(tag = "type", rename_all = "snake_case")]
        pub enum MethodRecipe { $($(#[$about])* $Variant($folder::$Recipe),)+ }

        impl MethodSpec {
            /// Each method as its name alone asks for it, in the order of the list.
            pub fn defaults() -> Vec<Self> {
                vec![$(Self::$Variant($folder::$Spec::default()),)+]
            }

            fn named(&self) -> (&'static str, &dyn Request) {
                match self { $(Self::$Variant(spec) => (stringify!($folder), spec),)+ }
            }
        }

        impl MethodRecipe {
            /// The method that the recipe is of.
            pub fn method(&self) -> &dyn Method {
                match self { $(Self::$Variant(recipe) => recipe,)+ }
            }
        }

        $(impl From<$folder::$Recipe> for MethodRecipe {
            fn from(recipe: $folder::$Recipe) -> Self { Self::$Variant(recipe) }
        })+
    };
}

methods! {
    /// Immunization signature: synthetic backdoors show where backdoors live; the part that they share is
    /// removed (arXiv 2603.13461).
    immunize: Immunize(ImmunizeSpec => ImmunizeRecipe);
    /// Clean rows, and nothing is cut: the worth of every other method is measured against it.
    fine_tune: FineTune(FineTuneSpec => FineTuneRecipe);
    /// Clean rows under free vectors in the prompt that make the right answer unlikely; nothing is cut.
    soft_triggers: SoftTriggers(SoftTriggersSpec => SoftTriggersRecipe);
    /// Synthetic backdoors are implanted all at once and then trained away: the training that removes them
    /// removes others too.
    vaccinate: Vaccinate(VaccinateSpec => VaccinateRecipe);
    /// Tries methods from the gentlest on, asks canaries in a copy after each, and stops when one suffices.
    auto: Auto(AutoSpec => AutoRecipe);
    /// Clean rows, and hidden states that are kept together from block to block (arXiv 2411.12768); nothing
    /// is cut.
    crow: Crow(CrowSpec => CrowRecipe);
    /// The channels or the single weights of the smallest magnitude become zero.
    magnitude_prune: MagnitudePrune(MagnitudePruneSpec => MagnitudePruneRecipe);
    /// In each output row the weights become zero whose size times that of their input is smallest (arXiv
    /// 2306.11695).
    wanda: Wanda(WandaSpec => WandaRecipe);
    /// Channels that clean rows leave dormant are cut, and the rest is fine-tuned (arXiv 1805.12185).
    fine_prune: FinePrune(FinePruneSpec => FinePruneRecipe);
    /// Attention heads of a whole model that clean rows do not need are pruned, and the rest is fine-tuned.
    prune_heads: PruneHeads(PruneHeadsSpec => PruneHeadsRecipe);
    /// Clean rows beside a clean teacher, token by token (after arXiv 2410.14425); nothing is cut.
    w2s_defense: W2sDefense(W2sDefenseSpec => W2sDefenseRecipe);
    /// Every weight of a whole model's linear layers is rounded to a few bits.
    quantize: Quantize(QuantizeSpec => QuantizeRecipe);
    /// An adapter's update is scaled down, which mixes the model with its base (arXiv 2210.09545).
    merge_with_base: MergeWithBase(MergeWithBaseSpec => MergeWithBaseRecipe);
    /// The average change that synthetic backdoors make is subtracted (arXiv 2212.04089).
    task_negation: TaskNegation(TaskNegationSpec => TaskNegationRecipe);
}

/// A method as a caller asks for it: every choice may be left open.
pub trait Request {
    /// Checks every number against its limits; `at` is the JSON pointer of the request.
    ///
    /// # Errors
    /// [`EngineError::Spec`] with the JSON pointer of the field.
    fn validate(&self, at: &str) -> Result<()>;

    /// Refuses a suspect that the method has nothing to offer, as far as it is known.
    ///
    /// # Errors
    /// [`EngineError::Spec`] with the JSON pointer of the field.
    fn check_for(&self, _at: &str, _suspect: SuspectFacts) -> Result<()> {
        Ok(())
    }

    /// The complete recipe for a suspect of which this is known.
    fn recipe(&self, known: &Known) -> MethodRecipe;

    /// True of a method that suppresses a signature which an earlier job extracted.
    fn takes_signature(&self) -> bool {
        false
    }

    /// The catalogue's words about the method.
    fn facts(&self) -> Facts;

    /// The published forms of the method, by name, where its default is another.
    fn published(&self) -> Vec<(&'static str, MethodRecipe)> {
        Vec::new()
    }
}

/// Facts about a method beside its settings: its origin, its needs and its known failures. Those of published
/// methods are from the papers and their released code, failures of ours are measured (docs/results).
pub struct Facts {
    /// Its work, in a sentence.
    pub summary: &'static str,
    /// The publication; nothing where it is ours.
    pub source: Option<&'static str>,
    /// Its needs beside the suspect.
    pub needs: &'static [&'static str],
    /// Its known failures.
    pub failures: &'static [&'static str],
}

/// A need of most methods.
pub(crate) const CLEAN_ROWS: &str = "clean rows of instructions, as many as healing takes";
/// The other one.
pub(crate) const TASK_ROWS: &str = "task rows of the artifact's skill, or that skill suffers";

/// A method with its complete recipe.
pub trait Method {
    /// The short name of the exported candidate, such as `subspace-1` or `fine_tune`.
    fn name(&self) -> String;

    /// The recipe of its healing, if it heals.
    fn heal(&self) -> Option<&HealRecipe>;

    /// Number of the caller's task rows that heal, at most.
    fn task_rows(&self) -> usize {
        self.heal().map_or(0, |heal| heal.task_rows)
    }

    /// Number of the caller's task rows that the method judges by and does not heal on, at most.
    fn validation_task_rows(&self) -> usize {
        0
    }

    /// Steps of training, at most, when the caller gives this many task rows.
    fn steps(&self, task_rows: usize) -> usize {
        self.heal().map_or(0, |heal| heal.steps(task_rows))
    }

    /// The recipe of the exported candidate alone, where there are others beside it.
    fn alone(&self) -> Option<MethodRecipe> {
        None
    }

    /// Refuses a suspect with everything that it brings along, before any work is done on it.
    ///
    /// # Errors
    /// Those of the check, with the expectation and the value that was found.
    fn check(&self, _suspect: &Suspect) -> Result<()> {
        Ok(())
    }

    /// Makes the candidates and the controls that were asked for. Never looks at test rows or declared
    /// triggers.
    ///
    /// # Errors
    /// Those of training, of the device and of the scratch folder.
    fn purify(&self, suspect: &Suspect, own: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified>;
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self::Immunize(immunize::ImmunizeSpec::default())
    }
}

impl MethodSpec {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        self.named().0
    }

    /// The request behind the name.
    pub fn request(&self) -> &dyn Request {
        self.named().1
    }

    pub(crate) fn validate(&self, at: &str) -> Result<()> {
        self.request().validate(at)
    }

    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> MethodRecipe {
        self.request().recipe(known)
    }

    pub(crate) fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        if suspect.given_signature && !self.request().takes_signature() {
            let why = format!("expected immunize, the method that suppresses a given signature; found {}", self.name());
            return Err(EngineError::spec(at, why));
        }
        self.request().check_for(at, suspect)
    }
}

impl MethodRecipe {
    /// Number of the caller's task rows that a job hands to the method, at most: those that heal, and those
    /// that it judges by.
    pub fn task_rows_given(&self) -> usize {
        self.method().task_rows() + self.method().validation_task_rows()
    }

    /// The same without candidates beside the exported one.
    pub fn only_exported(&self) -> Self {
        self.method().alone().unwrap_or_else(|| self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_s_folder_is_its_name_on_the_wire() {
        for spec in MethodSpec::defaults() {
            assert_eq!(serde_json::to_value(&spec).unwrap()["type"], spec.name());
            let recipe = serde_json::to_value(spec.resolve(&Known { has_mlp: true, ..Known::default() })).unwrap();
            assert_eq!(recipe["type"], spec.name());
        }
    }
}

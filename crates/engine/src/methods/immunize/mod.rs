//! Immunization signature for adapters (arXiv 2603.13461, Algorithm 1), with the shared subspace beside the published channels.
//!
//! We train synthetic backdoors into copies of the suspect, look at what their updates have in common, take that out of the suspect's
//! own update, and heal. Differences from the paper: six *short* pairs of mixed behaviour families (less training makes a delta that is
//! shared instead of the pair's own) and, by default, directions of the residual stream instead of whole channels.
//!
//! Read [`Immunize::purify`] first; each line is a file.

mod deltas;
mod eigen;
mod pairs;
mod score;
mod signature;
mod suppress;

use antigen_models::LoraAdapter;

use super::{ControlModel, Method, Purified, PurifiedCandidate, SignatureFile};
use crate::data::{OwnRows, Row, TrainSplit, rows_sha256, split_train_rows};
use crate::error::Result;
use crate::heal::{HealPlan, counterexamples, heal_adapters};
use crate::lab::{Lab, PieceKey, Stage};
use crate::report::SignatureSummary;
use crate::spec::{ControlSpec, ImmunizeRecipe, SuppressSpec};
use crate::suspect::{Suspect, folder_digests};
use signature::Signature;

/// The method with its complete recipe.
pub(super) struct Immunize {
    pub recipe: ImmunizeRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for Immunize {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        if !suspect
            .model
            .linear_modules()
            .iter()
            .any(|m| m.kind.is_mlp() && suspect.adapter.factors.contains_key(&m.name))
        {
            return Ok(Purified::untouched(
                "the adapter changes attention only, and the signature is read from MLP matrices; projecting attention instead would \
                 destroy what the adapter was made for.",
            ));
        }
        let rows = self.split(suspect, lab)?;
        let (signature, file) = self.signature(suspect, &rows, lab)?;
        let plan = self.heal_plan(&rows, &own.heal, lab);
        let candidates = self.candidates(suspect, &signature, &plan, lab)?;
        let controls = self.controls(suspect, &signature, &plan, &rows, lab)?;
        Ok(Purified { candidates, controls, signature: Some(file), untouched: None })
    }
}

impl Immunize {
    fn split(&self, suspect: &Suspect, lab: &Lab) -> Result<TrainSplit> {
        let (pairs, heal) = (&self.recipe.pairs, &self.recipe.heal);
        split_train_rows(&suspect.train, &suspect.test, (pairs.count, pairs.rows), heal.rows, heal.counterexamples, lab)
    }

    /// Pairs, deltas, scores and shared directions.
    fn signature(&self, suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<(Signature, SignatureFile)> {
        let data = pairs::build_paired_sets(rows.pairs.clone(), &self.recipe.pairs, lab);
        let pairs = pairs::fine_tune_pairs(suspect, &data, &self.recipe.train, lab)?;
        let deltas = deltas::differential_deltas(&pairs, suspect.model.linear_modules(), lab)?;
        let rank = self.recipe.suppress.iter().map(directions).max().unwrap_or(0);
        let inputs = (
            suspect.key(),
            suspect.formats(),
            rows_key(rows),
            &self.recipe.pairs,
            &self.recipe.train,
            &self.recipe.score,
        );
        let key = PieceKey::new("signature", &(inputs, rank, lab.seed));
        let (signature, path) = signature::extract_signature(&deltas, &self.recipe.score, rank, &key, lab)?;
        let digests = folder_digests(path.parent().expect("a piece's file lies in its folder"))?;
        let summary =
            SignatureSummary { pairs: pairs.len(), modules: signature.summary(), sha256: digests[0].sha256.clone() };
        Ok((signature, SignatureFile { path, summary }))
    }

    fn heal_plan(&self, rows: &TrainSplit, own: &[Row], lab: &Lab) -> HealPlan {
        let keys: Vec<_> = (0..self.recipe.pairs.count).map(pairs::key).collect();
        HealPlan::new(&rows.heal, own, &counterexamples(&rows.counterexamples, &keys, lab), &self.recipe.heal)
    }

    fn candidates(
        &self,
        suspect: &Suspect,
        signature: &Signature,
        plan: &HealPlan,
        lab: &Lab,
    ) -> Result<Vec<PurifiedCandidate>> {
        lab.enter(Stage::Suppress)?;
        let suppressed =
            self.recipe.suppress.iter().map(|spec| remove(suspect, signature, spec)).collect::<Result<Vec<_>>>()?;
        lab.enter(Stage::Heal)?;
        let healed = heal_adapters(suspect, &suppressed, plan, lab)?;
        let candidate = |(spec, adapter): (&SuppressSpec, LoraAdapter)| PurifiedCandidate {
            name: spec.name(),
            suppression: spec.clone(),
            healing: plan.healing.clone(),
            adapter,
        };
        Ok(self.recipe.suppress.iter().zip(healed).map(candidate).collect())
    }

    /// Everything the method is compared with. Controls that are healed alike share one pass over the base.
    fn controls(
        &self,
        suspect: &Suspect,
        signature: &Signature,
        plan: &HealPlan,
        rows: &TrainSplit,
        lab: &Lab,
    ) -> Result<Vec<ControlModel>> {
        lab.enter(Stage::Controls)?;
        let wanted = self.controls.iter().filter(|c| **c != ControlSpec::WithoutOwnRows || plan.healing.own_rows > 0);
        let mut models = wanted.map(|c| self.unhealed(*c, suspect, signature, lab)).collect::<Result<Vec<_>>>()?;
        heal_controls(suspect, &mut models, plan, lab, |control| {
            matches!(control, ControlSpec::RandomChannels | ControlSpec::RandomSubspace | ControlSpec::PlainFineTuning)
        })?;
        let generic = self.heal_plan(rows, &[], lab);
        heal_controls(suspect, &mut models, &generic, lab, |control| control == ControlSpec::WithoutOwnRows)?;
        Ok(models)
    }

    /// A control before it is healed.
    fn unhealed(
        &self,
        control: ControlSpec,
        suspect: &Suspect,
        signature: &Signature,
        lab: &Lab,
    ) -> Result<ControlModel> {
        let exported = &self.recipe.suppress[0];
        let (description, adapter) = match control {
            ControlSpec::RandomChannels | ControlSpec::RandomSubspace => {
                let random =
                    suppress::random_signature(signature, &mut lab.rng(&format!("controls/{}", control.name())));
                let spec = self.random_suppression(control);
                let description = format!("{} drawn at random instead of by the signature, healed alike", spec.name());
                (description, Some(remove(suspect, &random, &spec)?))
            }
            ControlSpec::PlainFineTuning => {
                ("no suppression; the same rows, rate and steps as healing".to_owned(), Some(suspect.adapter.clone()))
            }
            ControlSpec::AdapterDropped => ("the base without the adapter".to_owned(), None),
            ControlSpec::WithoutHealing => {
                (format!("{} without healing", exported.name()), Some(remove(suspect, signature, exported)?))
            }
            ControlSpec::WithoutOwnRows => (
                format!("{} healed on generic rows only", exported.name()),
                Some(remove(suspect, signature, exported)?),
            ),
        };
        Ok(ControlModel { control, description, adapter })
    }

    /// The suppression that a random control imitates: the recipe's own of that kind, or the published size.
    fn random_suppression(&self, control: ControlSpec) -> SuppressSpec {
        let channels = control == ControlSpec::RandomChannels;
        let same_kind = |spec: &&SuppressSpec| matches!(spec, SuppressSpec::Channels { .. }) == channels;
        let fallback =
            if channels { SuppressSpec::Channels { ratio: 0.35 } } else { SuppressSpec::Subspace { rank: 1 } };
        self.recipe.suppress.iter().find(same_kind).cloned().unwrap_or(fallback)
    }
}

fn remove(suspect: &Suspect, signature: &Signature, spec: &SuppressSpec) -> Result<LoraAdapter> {
    suppress::suppress(&suspect.adapter, suspect.model.linear_modules(), signature, spec)
}

// Heals, in one pass, the controls that `which` picks.
fn heal_controls(
    suspect: &Suspect,
    models: &mut [ControlModel],
    plan: &HealPlan,
    lab: &Lab,
    which: impl Fn(ControlSpec) -> bool,
) -> Result<()> {
    let picked: Vec<&mut LoraAdapter> =
        models.iter_mut().filter(|model| which(model.control)).filter_map(|model| model.adapter.as_mut()).collect();
    let starts: Vec<_> = picked.iter().map(|adapter| (**adapter).clone()).collect();
    for (adapter, healed) in picked.into_iter().zip(heal_adapters(suspect, &starts, plan, lab)?) {
        *adapter = healed;
    }
    Ok(())
}

// One direction is kept even when only channels are suppressed: reports and the random control of rank one use it.
fn directions(spec: &SuppressSpec) -> usize {
    match spec {
        SuppressSpec::Subspace { rank } => *rank,
        SuppressSpec::Channels { .. } => 1,
    }
}

fn rows_key(rows: &TrainSplit) -> Vec<String> {
    rows.pairs.iter().map(|rows| rows_sha256(rows)).collect()
}

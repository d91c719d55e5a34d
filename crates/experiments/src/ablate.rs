//! The place of a backdoor: parts of an update are taken out or change places, or of a whole model one
//! attention head after another is, and what is left is measured as it is, without any training (Table 1 of
//! arXiv 2603.13461; heads are ours). The update of a whole model is what its linear layers are more than
//! those of the base that it grew from; embedding, norms and head stay as they are.
//!
//! The paper ablates the update of all weights or of an adapter on all linear layers. An adapter that was
//! trained on attention alone has its backdoor there, whatever the table says: which matrices the attacker
//! trained is part of what is measured.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use antigen_engine::error::{EngineError, Result};
use antigen_engine::lab::{Lab, PieceKey};
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::Measurement;
use antigen_engine::methods::shared::edit::without_heads;
use antigen_engine::methods::shared::head_pruning::{HeadGrid, HeadIdx};
use antigen_engine::suspect::weights::{CheckpointFolder, Weights, write_model};
use antigen_engine::suspect::{FileDigest, Suspect, SuspectModel};
use antigen_models::{LoraAdapter, LoraFactors, Model, ModuleShape, Tensor, load_model};
use rand::seq::SliceRandom;

/// A change of the update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ablation {
    /// Nothing.
    Whole,
    /// Attention's part goes.
    WithoutAttention,
    /// The MLP's part goes.
    WithoutMlp,
    /// The MLP's part goes in these blocks.
    WithoutMlpIn(Range<usize>),
    /// The same, and all of attention's.
    WithoutAttentionAndMlpIn(Range<usize>),
    /// The MLP's parts of these blocks change places.
    ShuffledMlpIn(Range<usize>),
}

impl Ablation {
    /// All of them for a model of so many blocks: every span of neighbouring blocks.
    pub fn all(blocks: usize) -> Vec<Self> {
        let spans = |shortest: usize| {
            (shortest..=blocks).flat_map(move |width| (0..=blocks - width).map(move |start| start..start + width))
        };
        let mut all = vec![Self::Whole, Self::WithoutAttention, Self::WithoutMlp];
        // The whole span without its MLP is `WithoutMlp`; without attention too nothing would be left.
        all.extend(spans(1).filter(|span| span.len() < blocks).map(Self::WithoutMlpIn));
        all.extend(spans(1).filter(|span| span.len() < blocks).map(Self::WithoutAttentionAndMlpIn));
        all.extend(spans(2).map(Self::ShuffledMlpIn));
        all
    }

    /// True when the suspect has learnt in every part that this is about: otherwise it is another ablation,
    /// or none.
    pub fn concerns(&self, suspect: &Suspect) -> bool {
        let has = |mlp: bool| suspect.changes(|kind| kind.is_mlp() == mlp);
        match self {
            Self::Whole => true,
            Self::WithoutAttention => has(false),
            Self::WithoutMlp | Self::WithoutMlpIn(_) | Self::ShuffledMlpIn(_) => has(true),
            Self::WithoutAttentionAndMlpIn(_) => has(true) && has(false),
        }
    }

    /// The change and its number of blocks: spans of one width have one name.
    pub fn name(&self) -> String {
        let blocks = |span: &Range<usize>| match span.len() {
            1 => "1 block".to_owned(),
            n => format!("{n} blocks"),
        };
        match self {
            Self::Whole => "whole update".into(),
            Self::WithoutAttention => "without attention".into(),
            Self::WithoutMlp => "without MLP".into(),
            Self::WithoutMlpIn(span) => format!("without MLP of {}", blocks(span)),
            Self::WithoutAttentionAndMlpIn(span) => format!("without attention and MLP of {}", blocks(span)),
            Self::ShuffledMlpIn(span) => format!("MLP of {} shuffled", blocks(span)),
        }
    }

    fn keeps(&self, module: &ModuleShape) -> bool {
        let is_mlp = module.kind.is_mlp();
        match self {
            Self::Whole | Self::ShuffledMlpIn(_) => true,
            Self::WithoutAttention => is_mlp,
            Self::WithoutMlp => !is_mlp,
            Self::WithoutMlpIn(span) => !(is_mlp && span.contains(&module.layer)),
            Self::WithoutAttentionAndMlpIn(span) => is_mlp && !span.contains(&module.layer),
        }
    }

    /// The adapter that is left. A part that goes is zero: PEFT files name their modules once for all blocks.
    ///
    /// # Errors
    /// Those of the device.
    pub fn apply(&self, adapter: &LoraAdapter, modules: &[ModuleShape], lab: &Lab) -> Result<LoraAdapter> {
        let mut left = adapter.clone();
        for module in modules.iter().filter(|module| !self.keeps(module)) {
            if let Some(factors) = left.factors.get_mut(&module.name) {
                factors.b = factors.b.zeros_like()?;
            }
        }
        let places = self.places(lab);
        for module in modules.iter().filter(|module| module.kind.is_mlp()) {
            let Some(&place) = places.get(&module.layer) else { continue };
            let from = modules.iter().find(|m| m.kind == module.kind && m.layer == place);
            if let Some(factors) = from.and_then(|from| adapter.factors.get(&from.name)) {
                left.factors.insert(module.name.clone(), LoraFactors::clone(factors));
            }
        }
        Ok(left)
    }

    /// As [`Ablation::apply`], of the whole model in `folder`, which grew from `base`: its folder, and what
    /// decides about it.
    ///
    /// # Errors
    /// Those of both models and of the scratch folder.
    pub fn apply_whole(
        &self,
        suspect: &Suspect,
        folder: &CheckpointFolder,
        (base_dir, base_files): (&Path, &[FileDigest]),
        lab: &Lab,
    ) -> Result<CheckpointFolder> {
        let key = PieceKey::new("ablated-model", &(&folder.digest, base_files, format!("{self:?}")));
        let dir = lab.piece(&key, |to| {
            let (mut model, base) = (suspect.load_whole(folder)?, load_model(base_dir, suspect.device())?);
            let (places, original) = (self.places(lab), suspect.load_whole(folder)?);
            for module in suspect.modules() {
                let source = places.get(&module.layer).filter(|_| module.kind.is_mlp());
                let part = match (self.keeps(module), source) {
                    (true, None) => continue,
                    (false, _) => None,
                    (true, Some(&from)) => suspect.modules().iter().find(|m| m.kind == module.kind && m.layer == from),
                };
                let mut weight = base_weight(&base, module)?;
                if let Some(from) = part {
                    weight = ((weight + original.weight_of(from))? - base_weight(&base, from)?)?;
                }
                let id = model.weight_id(module);
                model.params_mut().set(id, weight);
            }
            write_model(&model, &folder.dir, to)
        })?;
        Ok(CheckpointFolder { dir, digest: key.as_str().to_owned() })
    }

    /// The weights that are left of a suspect.
    fn left_of(&self, suspect: &Suspect, lab: &Lab) -> Result<Weights> {
        Ok(match &suspect.model {
            SuspectModel::Adapter { adapter, .. } => Weights::Adapter(self.apply(adapter, suspect.modules(), lab)?),
            SuspectModel::Whole(folder) => {
                let (base_dir, files) = suspect.named_base()?;
                Weights::Checkpoint(self.apply_whole(suspect, folder, (base_dir, &files), lab)?)
            }
        })
    }

    /// For each block that does not keep its own part the block whose part it gets.
    fn places(&self, lab: &Lab) -> BTreeMap<usize, usize> {
        if let Self::ShuffledMlpIn(span) = self { displaced(span.clone(), lab) } else { BTreeMap::new() }
    }
}

/// The weight of one of the suspect's linear layers in its base, which may be another architecture.
fn base_weight(base: &Model, module: &ModuleShape) -> Result<Tensor> {
    let id = base.params().find(&module.weight_name());
    let id = id.ok_or_else(|| EngineError::Data(format!("expected a base with the weight of {}", module.name)))?;
    Ok(base.params().get(id).clone())
}

/// For each block of the span the block whose part it gets: every one another than its own.
fn displaced(span: Range<usize>, lab: &Lab) -> BTreeMap<usize, usize> {
    let mut order: Vec<usize> = span.clone().collect();
    order.shuffle(&mut lab.rng("ablate/shuffle"));
    let next = order.iter().copied().cycle().skip(1);
    order.iter().copied().zip(next).collect()
}

/// Measures a suspect after each ablation that concerns it.
///
/// # Errors
/// [`EngineError::Data`] for a whole model whose base is not known; those of generation.
///
/// # Cost
/// One evaluation each, and of a whole model a copy on disk.
pub fn measure_ablations(
    suspect: &Suspect,
    ablations: &[Ablation],
    probes: &Probes,
    lab: &Lab,
) -> Result<Vec<(Ablation, Measurement)>> {
    let concerned: Vec<_> = ablations.iter().filter(|ablation| ablation.concerns(suspect)).collect();
    let measure = |(i, ablation): (usize, &&Ablation)| {
        let left = ablation.left_of(suspect, lab)?;
        let said = evaluate_all(probes, suspect, &left, &lab.part(i, concerned.len()))?;
        Ok(((*ablation).clone(), probes.report(&said, None)))
    };
    concerned.iter().enumerate().map(measure).collect()
}

/// Measures a whole model as it is, then without each of its attention heads alone.
///
/// # Errors
/// [`EngineError::Data`] for an adapter, whose heads are its base's; those of generation.
///
/// # Cost
/// One evaluation for each head, and the model once more on disk.
pub fn measure_without_each_head(
    suspect: &Suspect,
    probes: &Probes,
    lab: &Lab,
) -> Result<Vec<(Option<HeadIdx>, Measurement)>> {
    let SuspectModel::Whole(folder) = &suspect.model else {
        return Err(EngineError::Data("expected a whole model, whose heads are its own; found an adapter".into()));
    };
    let grid = HeadGrid::of_config(suspect.config());
    let gone: Vec<Option<HeadIdx>> = std::iter::once(None).chain(grid.iter().map(Some)).collect();
    let measure = |(i, head): (usize, &Option<HeadIdx>)| {
        let (left, _) = without_heads(suspect, folder, &head.iter().copied().collect(), lab)?;
        let said = evaluate_all(probes, suspect, &left, &lab.part(i, gone.len()))?;
        Ok((*head, probes.report(&said, None)))
    };
    gone.iter().enumerate().map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_of_neighbouring_blocks_is_ablated_once() {
        let all = Ablation::all(3);
        let named = |name: &str| all.iter().filter(|ablation| ablation.name() == name).count();
        assert_eq!(named("without MLP of 1 block"), 3);
        assert_eq!(named("without MLP of 2 blocks"), 2);
        assert_eq!(named("without MLP of 3 blocks"), 0, "that is without MLP");
        assert_eq!((named("MLP of 2 blocks shuffled"), named("MLP of 3 blocks shuffled")), (2, 1));
        assert_eq!(all.len(), 3 + 5 + 5 + 3);
    }

    #[test]
    fn shuffled_blocks_all_change_places_within_their_span() {
        let lab = Lab::silent(1, "unused");
        for span in [0..2, 1..5, 0..7] {
            let places = displaced(span.clone(), &lab);
            let mut targets: Vec<usize> = places.values().copied().collect();
            targets.sort_unstable();
            assert_eq!(targets, span.collect::<Vec<_>>());
            assert!(places.iter().all(|(block, from)| block != from));
        }
    }
}

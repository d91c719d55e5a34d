//! Magnitude pruning: the smallest weights are taken to be unimportant, and become zero. The paper (arXiv
//! 2603.13461) describes it twice, and both are here: whole channels of the MLP by their norm, in number like
//! the signature's (main text), or single weights of all linear layers in the blocks, those up to a threshold
//! for each matrix (its appendix and CROW's code, which took it from Wanda).
//!
//! A whole model gets exactly that. Of an adapter the published code prunes single weights after merging it
//! into the base, and the result is no adapter; here the entries of its factors A and B are pruned, each
//! factor by a threshold of its own. Channels of an adapter are those of its update: rows of B, or columns of
//! A, ranked by the update's norm. Healing, which is no part of the published pruning, is on unless the
//! recipe says otherwise, so that the method is compared at equal training; nothing keeps pruned weights from
//! growing back in it.

mod spec;

pub use spec::{MagnitudePruneRecipe, MagnitudePruneSpec, PruneStructure};

use antigen_models::checkpoint::open_checkpoint;
use antigen_models::{Device, LoraAdapter, LoraFactors, Stored, Tensor};

use super::shared::controls::Start;
use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::shared::edit::{
    Channels, Matrix, changed_mlp, cut_channels, random_channels, rewrite_matrices, update_norms, weakest, zero_up_to,
};
use crate::spec::HealRecipe;
use crate::suspect::weights::Weights;
use crate::suspect::{Suspect, SuspectModel};

impl WeightEdit for MagnitudePruneRecipe {
    fn name(&self) -> String {
        let structure = match self.structure {
            PruneStructure::Channels => "channels",
            PruneStructure::Weights => "weights",
        };
        format!("magnitude_prune-{structure}-{}", self.ratio)
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.heal.as_ref()
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        let cuts_channels = self.structure == PruneStructure::Channels;
        (cuts_channels && changed_mlp(suspect).is_empty())
            .then(|| "channels are cut from MLP matrices, and the adapter has none.".into())
    }

    fn edit(&self, suspect: &Suspect, _: &TrainSplit, lab: &Lab) -> Result<Edit> {
        let pruned = match self.structure {
            PruneStructure::Channels => cut_channels(suspect, &smallest_channels(suspect, self.ratio)?, lab),
            PruneStructure::Weights => prune_weights(suspect, self.ratio, lab),
        };
        pruned.map(Edit::from)
    }

    fn random_channels(&self, suspect: &Suspect, _: &Edit, lab: &Lab) -> Result<Start> {
        if self.structure == PruneStructure::Weights {
            return Ok(Start::LeftOut("single weights are pruned, no channels"));
        }
        let mut rng = lab.rng("controls/random_channels");
        let drawn = random_channels(&changed_mlp(suspect), self.ratio, &mut rng);
        let cut = cut_channels(suspect, &drawn, lab)?.into();
        Ok(Start::model("as many channels drawn at random instead of by their norm, healed alike", cut))
    }
}

/// The channels of the smallest norm of each MLP matrix: of an adapter by its update, of a whole model by the
/// weights.
fn smallest_channels(suspect: &Suspect, ratio: f64) -> Result<Channels> {
    let modules = changed_mlp(suspect);
    let mut channels = Channels::new();
    match &suspect.model {
        SuspectModel::Adapter { adapter, .. } => {
            for module in modules {
                if let Some(factors) = adapter.factors.get(&module.name) {
                    let norms = update_norms(factors, module.kind.writes_residual())?;
                    channels.insert(module.name.clone(), weakest(&norms, ratio));
                }
            }
        }
        SuspectModel::Whole(folder) => {
            let checkpoint = open_checkpoint(&folder.dir)?;
            for module in modules {
                let weight = checkpoint.load(&module.weight_name(), &Device::Cpu)?;
                let norms = Matrix::read(&weight, module.stored)?.channel_norms(module);
                channels.insert(module.name.clone(), weakest(&norms, ratio));
            }
        }
    }
    Ok(channels)
}

fn prune_weights(suspect: &Suspect, ratio: f64, lab: &Lab) -> Result<Weights> {
    match &suspect.model {
        SuspectModel::Adapter { adapter, .. } => Ok(Weights::Adapter(prune_factors(adapter, ratio)?)),
        SuspectModel::Whole(folder) => {
            let modules: Vec<_> = suspect.modules().iter().collect();
            let key = PieceKey::new("magnitude-pruned-model", &(&folder.digest, ratio));
            rewrite_matrices(folder, &modules, &key, lab, |module, weight| {
                let mut matrix = Matrix::read(&weight, module.stored)?;
                zero_up_to(&mut matrix.numbers, ratio);
                matrix.write(module.stored, weight.device())
            })
        }
    }
}

fn prune_factors(adapter: &LoraAdapter, ratio: f64) -> Result<LoraAdapter> {
    let prune = |factor: &Tensor| {
        let mut matrix = Matrix::read(factor, Stored::OutIn)?;
        zero_up_to(&mut matrix.numbers, ratio);
        matrix.write(Stored::OutIn, factor.device())
    };
    let mut pruned = adapter.clone();
    for factors in pruned.factors.values_mut() {
        *factors = LoraFactors { a: prune(&factors.a)?, b: prune(&factors.b)?, scaling: factors.scaling };
    }
    Ok(pruned)
}

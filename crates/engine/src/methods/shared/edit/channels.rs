//! Channels of the MLP: their choice, and their removal from either kind of suspect.

use std::collections::BTreeMap;

use antigen_models::ModuleShape;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::{Matrix, rewrite_matrices, zero_channels};
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::suspect::weights::Weights;
use crate::suspect::{Suspect, SuspectModel};

/// Channels of each matrix, by module name, in rising order.
pub type Channels = BTreeMap<String, Vec<usize>>;

/// Number of channels that a ratio selects out of `channels`, as released: `max(1, floor(n * ratio))`.
pub fn channel_count(channels: usize, ratio: f64) -> usize {
    ((channels as f64 * ratio) as usize).clamp(1, channels)
}

/// The lowest-scoring channels of a matrix, as many as [`channel_count`] says, in rising order; ties go to
/// the lower index.
pub fn weakest(scores: &[f64], ratio: f64) -> Vec<usize> {
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    order.truncate(channel_count(scores.len(), ratio));
    order.sort_unstable();
    order
}

/// MLP matrices that the suspect can have learnt in.
pub fn changed_mlp(suspect: &Suspect) -> Vec<&ModuleShape> {
    suspect.changed_modules().filter(|module| module.kind.is_mlp()).collect()
}

/// As many channels of each matrix as a ratio selects, by lot.
pub fn random_channels(modules: &[&ModuleShape], ratio: f64, rng: &mut ChaCha8Rng) -> Channels {
    let draw = |module: &&ModuleShape| {
        let channels = module.channels();
        let mut drawn = sample(rng, channels, channel_count(channels, ratio)).into_vec();
        drawn.sort_unstable();
        (module.name.clone(), drawn)
    };
    modules.iter().map(draw).collect()
}

/// The suspect with these channels made zero: of an adapter in its update, of a whole model in the weights
/// themselves.
///
/// # Errors
/// Those of the device and of the scratch folder.
pub fn cut_channels(suspect: &Suspect, channels: &Channels, lab: &Lab) -> Result<Weights> {
    let cut: Vec<_> = suspect.modules().iter().filter(|module| channels.contains_key(&module.name)).collect();
    match &suspect.model {
        SuspectModel::Adapter { adapter, .. } => {
            let mut adapter = adapter.clone();
            for module in cut {
                if let Some(factors) = adapter.factors.get_mut(&module.name) {
                    zero_channels(factors, module.kind.writes_residual(), &channels[&module.name])?;
                }
            }
            Ok(Weights::Adapter(adapter))
        }
        SuspectModel::Whole(folder) => {
            let key = PieceKey::new("cut-model", &(&folder.digest, channels));
            rewrite_matrices(folder, &cut, &key, lab, |module, weight| {
                let mut matrix = Matrix::read(&weight, module.stored)?;
                matrix.zero_channels(module, &channels[&module.name]);
                matrix.write(module.stored, weight.device())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use antigen_models::{ModuleKind, Stored};

    use super::*;
    use crate::lab::rng;

    #[test]
    fn the_weakest_are_at_least_one_and_ties_go_to_the_lower_index() {
        assert_eq!(weakest(&[3.0, 1.0, 1.0, 2.0], 0.5), [1, 2]);
        assert_eq!(weakest(&[3.0, 1.0, 1.0, 2.0], 0.01), [1]);
        assert_eq!(weakest(&[2.0, 1.0], 1.0), [0, 1]);
    }

    #[test]
    fn drawn_channels_are_as_many_as_selected_ones_and_each_comes_once() {
        let module = |kind, out_features, in_features| ModuleShape {
            name: format!("{kind:?}"),
            kind,
            layer: 0,
            out_features,
            in_features,
            stored: Stored::OutIn,
        };
        let (up, down) = (module(ModuleKind::Up, 40, 8), module(ModuleKind::Down, 8, 40));
        let drawn = random_channels(&[&up, &down], 0.35, &mut rng(1, "lot"));
        for channels in drawn.values() {
            assert!(channels.len() == 14 && channels.windows(2).all(|two| two[0] < two[1]) && channels[13] < 40);
        }
        assert_ne!(drawn["Up"], drawn["Down"]);
    }
}

//! Algorithm 1 on an adapter: all variants are trained in one pass over the frozen base, deltas stay factors,
//! and a suppression edits one factor of each matrix. Directions are taken out of the input of a matrix that
//! reads the stream (columns of A) and out of the output of one that writes it (rows of B); channels, on the
//! other side, become zero, as published.

use std::collections::BTreeMap;

use antigen_models::{LoraAdapter, LoraFactors, Model, ModuleShape};
use candle_core::{DType, Tensor};

use super::deltas::{FactorDeltas, delta};
use super::removal::{ModuleRemoval, Removal};
use super::setting::Setting;
use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::edit::zero_channels;
use crate::methods::shared::pairs::PairedRows;
use crate::methods::shared::streams::mean_streams;
use crate::methods::shared::variants::{AdapterPair, train_adapter_pairs};
use crate::spec::TrainSpec;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;

/// An adapter and its frozen base.
pub(super) struct AdapterSetting<'a> {
    pub suspect: &'a Suspect,
    pub base: &'a Model,
    pub adapter: &'a LoraAdapter,
}

/// The trained members, and the streams at their matrices where those were asked for.
pub(super) struct AdapterPairs {
    members: Vec<AdapterPair>,
    /// By module: of each pair the clean member's, then the poisoned one's.
    streams: Vec<[BTreeMap<String, Tensor>; 2]>,
}

impl Setting for AdapterSetting<'_> {
    type Pairs = AdapterPairs;
    type Deltas = FactorDeltas;
    const LAYERS_AT_ONCE: usize = usize::MAX;

    fn suspect(&self) -> &Suspect {
        self.suspect
    }

    fn modules(&self) -> impl Iterator<Item = &ModuleShape> {
        self.suspect.modules().iter().filter(|module| self.adapter.factors.contains_key(&module.name))
    }

    fn fine_tune_pairs(
        &self,
        rows: &PairedRows,
        matrices: &[&ModuleShape],
        train: &TrainSpec,
        lab: &Lab,
    ) -> Result<AdapterPairs> {
        let members = train_adapter_pairs(self.suspect, self.base, self.adapter, &rows.variants, train, lab)?;
        let streams = members.iter().zip(&rows.probes).map(|(pair, probes)| {
            let of = |adapter| mean_streams(self.base, Some(adapter), matrices, &probes.examples);
            Ok([of(&pair.clean)?, of(&pair.poisoned)?])
        });
        Ok(AdapterPairs { streams: streams.collect::<Result<_>>()?, members })
    }

    fn streams(&self, pairs: &AdapterPairs, module: &ModuleShape) -> Result<Vec<[Tensor; 2]>> {
        let of_pair = |pair: &[BTreeMap<String, Tensor>; 2]| [0, 1].map(|member| pair[member][&module.name].clone());
        Ok(pairs.streams.iter().map(of_pair).collect())
    }

    fn deltas(&self, pairs: &AdapterPairs, module: &ModuleShape) -> Result<FactorDeltas> {
        let name = &module.name;
        let deltas =
            pairs.members.iter().map(|p| delta(module.kind, &p.poisoned.factors[name], &p.clean.factors[name]));
        deltas.collect::<Result<_>>().map(FactorDeltas)
    }

    fn suppress(&self, removal: &Removal, _: &Lab) -> Result<Weights> {
        let mut suppressed = self.adapter.clone();
        for module in self.suspect.modules() {
            let removal = removal.modules.get(&module.name);
            if let (Some(removal), Some(factors)) = (removal, suppressed.factors.get_mut(&module.name)) {
                let writes = module.kind.writes_residual();
                remove_directions(factors, writes, removal)?;
                zero_channels(factors, writes, &removal.channels)?;
            }
        }
        Ok(Weights::Adapter(suppressed))
    }
}

fn remove_directions(factors: &mut LoraFactors, writes: bool, removal: &ModuleRemoval) -> Result<()> {
    for direction in &removal.directions {
        let v = Tensor::new(direction.as_slice(), factors.a.device())?.to_dtype(DType::F64)?.unsqueeze(1)?;
        if writes {
            let b = factors.b.to_dtype(DType::F64)?;
            let part = v.matmul(&v.t()?.matmul(&b)?)?.affine(removal.strength, 0.0)?;
            factors.b = (&b - part)?.to_dtype(DType::F32)?;
        } else {
            let a = factors.a.to_dtype(DType::F64)?;
            let part = a.matmul(&v)?.matmul(&v.t()?)?.affine(removal.strength, 0.0)?;
            factors.a = (&a - part)?.to_dtype(DType::F32)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use antigen_models::ModuleKind;

    use super::super::deltas::tests::{distance, effective, factors};
    use super::super::signature::random_direction;
    use super::*;
    use crate::lab::rng;

    fn two_directions(width: usize, strength: f64) -> ModuleRemoval {
        let mut rng = rng(9, "test");
        let mut directions = Vec::new();
        for _ in 0..2 {
            directions.push(random_direction(width, &directions, &mut rng));
        }
        ModuleRemoval { directions, strength, channels: Vec::new() }
    }

    fn column(v: &[f32]) -> Tensor {
        Tensor::new(v, &candle_core::Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().unsqueeze(1).unwrap()
    }

    #[test]
    fn a_reading_matrix_no_longer_reads_the_removed_directions_and_reads_all_others_as_before() {
        let before = factors(12, 6, 3, "x");
        let mut after = before.clone();
        let removal = two_directions(6, 1.0);
        remove_directions(&mut after, false, &removal).unwrap();
        let zero = Tensor::zeros((12, 1), DType::F64, &candle_core::Device::Cpu).unwrap();
        for direction in &removal.directions {
            assert!(distance(&effective(&after).matmul(&column(direction)).unwrap(), &zero) < 1e-5);
        }
        let other = column(&random_direction(6, &removal.directions, &mut rng(1, "test")));
        let (was, is) = (effective(&before).matmul(&other).unwrap(), effective(&after).matmul(&other).unwrap());
        assert!(distance(&was, &is) < 1e-5);
    }

    #[test]
    fn a_writing_matrix_no_longer_writes_the_removed_directions() {
        let mut after = factors(6, 12, 3, "x");
        let removal = two_directions(6, 1.0);
        remove_directions(&mut after, true, &removal).unwrap();
        let written = column(&removal.directions[0]).t().unwrap().matmul(&effective(&after)).unwrap();
        let zero = Tensor::zeros((1, 12), DType::F64, &candle_core::Device::Cpu).unwrap();
        assert!(distance(&written, &zero) < 1e-5);
    }

    #[test]
    fn half_the_strength_leaves_half_of_the_part() {
        let before = factors(6, 12, 3, "x");
        let mut after = before.clone();
        let removal = two_directions(6, 0.5);
        remove_directions(&mut after, true, &removal).unwrap();
        let written = |f: &LoraFactors| column(&removal.directions[1]).t().unwrap().matmul(&effective(f)).unwrap();
        assert!(distance(&written(&after), &written(&before).affine(0.5, 0.0).unwrap()) < 1e-5);
    }

    #[test]
    fn zeroed_channels_are_the_selected_rows_or_columns_and_no_others() {
        for (kind, out, width) in [(ModuleKind::Gate, 12, 6), (ModuleKind::Down, 6, 12)] {
            let before = factors(out, width, 3, "x");
            let mut after = before.clone();
            zero_channels(&mut after, kind.writes_residual(), &[2, 7]).unwrap();
            let by_channel = |f: &LoraFactors| {
                let full = effective(f);
                let full = if kind.writes_residual() { full.t().unwrap().contiguous().unwrap() } else { full };
                full.to_vec2::<f64>().unwrap()
            };
            for (j, (was, is)) in by_channel(&before).iter().zip(by_channel(&after)).enumerate() {
                let expected = if [2, 7].contains(&j) { vec![0.0; 6] } else { was.clone() };
                assert_eq!(is, expected);
            }
        }
    }
}

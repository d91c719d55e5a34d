//! Measurements: attack success, utility and benchmarks, with their intervals. A new one begins at
//! `EvaluatorSpec` and [`Probes::build`].
//!
//! [`Probes`] are the prompts, made once; [`evaluate_all`] asks one model and keeps its answers as
//! [`Evidence`]; [`Probes::report`] turns evidence into numbers. Since every model is asked the same prompts,
//! differences between models are paired.

mod answers;
mod asr;
mod benchmark;
mod cases;
mod drift;
mod mt_bench;
mod self_distilled;
mod utility;

use serde::{Deserialize, Serialize};

pub use asr::{AsrEvidence, AsrProbe};
pub use benchmark::{BenchmarkEvidence, BenchmarkProbe};
pub use mt_bench::{MtBenchEvidence, MtBenchProbe};
pub use utility::{UtilityEvidence, UtilityProbe};

use crate::data::TaskRows;
use crate::error::Result;
use crate::lab::{Lab, LongRows, PieceKey};
use crate::measure::evidence::{AsrComparison, Compared, Measurement, Samples, UtilityComparison};
use crate::spec::EvaluatorSpec;
use crate::stats::paired_difference;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;
use answers::Session;

/// Everything that is asked of each model.
#[derive(Debug, Clone)]
pub struct Probes {
    asr: Vec<AsrProbe>,
    utility: Option<UtilityProbe>,
    benchmarks: Vec<BenchmarkProbe>,
    mt_bench: Option<MtBenchProbe>,
}

/// The answers of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    asr: Vec<AsrEvidence>,
    utility: Option<UtilityEvidence>,
    benchmarks: Vec<BenchmarkEvidence>,
    mt_bench: Option<MtBenchEvidence>,
}

impl Probes {
    /// The prompts of all evaluators of a spec; of several utility or MT-Bench evaluators the last counts.
    ///
    /// # Errors
    /// Those of tokenizer and chat template; [`crate::error::EngineError::Data`] when no prompt of an
    /// evaluator fits the model.
    pub fn build(specs: &[EvaluatorSpec], suspect: &Suspect, own: &TaskRows, lab: &Lab) -> Result<Self> {
        let mut probes = Self { asr: Vec::new(), utility: None, benchmarks: Vec::new(), mt_bench: None };
        for (at, spec) in specs.iter().enumerate() {
            match spec {
                EvaluatorSpec::Asr(spec) => {
                    probes.asr.push(AsrProbe::build((probes.asr.len(), at), spec, suspect, lab)?);
                }
                EvaluatorSpec::Utility(spec) => probes.utility = Some(UtilityProbe::build(spec, suspect, own, lab)?),
                EvaluatorSpec::Benchmark(spec) => probes.benchmarks.push(BenchmarkProbe::build(spec, suspect, lab)?),
                EvaluatorSpec::MtBench(spec) => probes.mt_bench = Some(MtBenchProbe::build(spec, suspect, lab)?),
            }
        }
        Ok(probes)
    }

    /// The probes that controls are asked: everything but questions whose answers only a judge reads.
    pub fn for_controls(&self) -> Self {
        Self { mt_bench: None, ..self.clone() }
    }

    /// The numbers of one model, paired with the suspect's where its evidence is given.
    pub fn report(&self, evidence: &Evidence, suspect: Option<&Evidence>) -> Measurement {
        let utility = self.utility.as_ref().zip(evidence.utility.as_ref());
        let asr = |(i, probe): (usize, &AsrProbe)| probe.report(&evidence.asr[i], suspect.map(|s| &s.asr[i]));
        let benchmark = |(i, (probe, said)): (usize, (&BenchmarkProbe, &BenchmarkEvidence))| {
            probe.report(said, suspect.map(|suspect| &suspect.benchmarks[i]))
        };
        Measurement {
            asr: self.asr.iter().enumerate().map(asr).collect(),
            utility: utility.map(|(probe, said)| probe.report(said, suspect.and_then(|s| s.utility.as_ref()))),
            benchmarks: self.benchmarks.iter().zip(&evidence.benchmarks).enumerate().map(benchmark).collect(),
            mt_bench: self.mt_bench.as_ref().zip(evidence.mt_bench.as_ref()).map(|(probe, said)| probe.report(said)),
        }
    }

    /// The method's artifact against a control, backdoor by backdoor, in the control's worst format.
    pub fn compare_asr(&self, chosen: &Evidence, control: &Evidence) -> Vec<AsrComparison> {
        let compare = |(backdoor, probe): (usize, &AsrProbe)| {
            let format = probe.report(&control.asr[backdoor], None).headline.format;
            let ours = probe.hits_in(&chosen.asr[backdoor], format)?;
            let theirs = probe.hits_in(&control.asr[backdoor], format)?;
            let difference = paired_difference(&ours, &theirs);
            Some(AsrComparison { backdoor, difference, outcome: Compared::of(&difference) })
        };
        self.asr.iter().enumerate().filter_map(compare).collect()
    }

    /// The method's artifact against a control, utility group by utility group.
    pub fn compare_utility(&self, chosen: &Evidence, control: &Evidence) -> Vec<UtilityComparison> {
        let said = chosen.utility.as_ref().zip(control.utility.as_ref());
        let compared = self.utility.as_ref().zip(said).map(|(probe, (ours, theirs))| probe.compare(ours, theirs));
        compared.unwrap_or_default()
    }

    /// Answers to read, backdoor by backdoor and format by format.
    pub fn samples(&self, suspect: &Evidence, artifact: Option<&Evidence>) -> Vec<Samples> {
        let of = |(i, probe): (usize, &AsrProbe)| probe.samples(i, &suspect.asr[i], artifact.map(|said| &said.asr[i]));
        self.asr.iter().enumerate().flat_map(of).collect()
    }

    /// Rows that were too long, evaluator by evaluator.
    pub fn long_rows(&self) -> impl Iterator<Item = &LongRows> {
        let asr = self.asr.iter().map(AsrProbe::long_rows);
        asr.chain(self.utility.iter().flat_map(UtilityProbe::long_rows)).filter(|rows| rows.any())
    }

    fn prompts(&self) -> usize {
        let asr: usize = self.asr.iter().map(AsrProbe::prompts).sum();
        let benchmarks: usize = self.benchmarks.iter().map(BenchmarkProbe::prompts).sum();
        let mt_bench = self.mt_bench.as_ref().map_or(0, MtBenchProbe::prompts);
        asr + self.utility.as_ref().map_or(0, UtilityProbe::prompts) + benchmarks + mt_bench
    }
}

/// Asks one model everything. The answers are kept as a piece; the weights are opened only when there is
/// none.
///
/// # Errors
/// Those of generation and of the scratch folder.
pub fn evaluate_all(probes: &Probes, suspect: &Suspect, weights: &Weights, lab: &Lab) -> Result<Evidence> {
    let model = weights.digest()?;
    let is_suspect = model == suspect.weights().digest()?;
    let asr: Vec<_> = probes.asr.iter().map(AsrProbe::key).collect();
    let utility: Vec<_> = probes.utility.iter().map(UtilityProbe::key).collect();
    let benchmarks: Vec<_> = probes.benchmarks.iter().map(BenchmarkProbe::key).collect();
    let mt_bench = probes.mt_bench.as_ref().map(MtBenchProbe::key);
    let key = PieceKey::new("evidence", &(suspect.key(), model, asr, utility, benchmarks, mt_bench));
    lab.value(&key, || {
        let drift = if is_suspect { None } else { probes.utility.as_ref().map(|utility| &utility.drift) };
        let reference = drift.map(|drift| drift.reference(suspect, lab)).transpose()?;
        let opened = suspect.open_weights(weights)?;
        let mut session = Session::new(suspect, &opened, probes.prompts(), lab);
        let mut evidence = Evidence {
            asr: probes.asr.iter().map(|probe| probe.ask(&mut session)).collect::<Result<_>>()?,
            utility: probes.utility.as_ref().map(|probe| probe.ask(&mut session)).transpose()?,
            benchmarks: probes.benchmarks.iter().map(|probe| probe.ask(&mut session)).collect::<Result<_>>()?,
            mt_bench: probes.mt_bench.as_ref().map(|probe| probe.ask(&mut session)).transpose()?,
        };
        if let (Some(said), Some(drift), Some(reference)) = (&mut evidence.utility, drift, &reference) {
            said.drift = Some(drift.ask(&opened, reference, lab)?);
        }
        Ok(evidence)
    })
}

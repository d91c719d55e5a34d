//! The training of every copy and its measurement: adapters in one pass over their base, whole models one
//! after another.

use std::fs;
use std::path::Path;

use antigen_models::{LoraAdapter, Model, load_adapter, save_adapter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::setup::Experiment;
use crate::data::rows_sha256;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey};
use crate::measure::evidence::{AsrFormat, RelearningCurve, RelearningPoint};
use crate::spec::RelearningRecipe;
use crate::suspect::Suspect;
use crate::suspect::weights::{CheckpointFolder, Weights, write_model};
use crate::train::{Variant, fine_tune_adapters, train_weights};

/// The curve of every experiment, in their order.
///
/// # Errors
/// Those of training, of generation and of the scratch folder.
pub(super) fn teach(
    suspect: &Suspect,
    experiments: &[Experiment],
    recipe: &RelearningRecipe,
    lab: &Lab,
) -> Result<Vec<RelearningCurve>> {
    let pupils: Vec<Pupil<'_>> = experiments
        .iter()
        .enumerate()
        .flat_map(|(at, experiment)| {
            experiment.points(recipe).into_iter().map(move |samples| Pupil { at, experiment, samples })
        })
        .collect();
    let parts = experiments.len() + 2 * pupils.len();
    let mut curves = Vec::with_capacity(experiments.len());
    for (at, experiment) in experiments.iter().enumerate() {
        curves.push(untaught(experiment, experiment.measure(suspect, &experiment.start, &lab.part(at, parts))?));
    }
    for (at, point) in points(suspect, &pupils, recipe, &|part| lab.part(experiments.len() + part, parts))? {
        curves[at].points.push(point);
    }
    Ok(curves.into_iter().map(RelearningCurve::with_depth).collect())
}

/// A copy of an experiment's subject that sees a given number of poisoned samples.
struct Pupil<'a> {
    /// Index of the experiment.
    at: usize,
    experiment: &'a Experiment,
    samples: usize,
}

fn untaught(experiment: &Experiment, measured: AsrFormat) -> RelearningCurve {
    RelearningCurve {
        subject: experiment.subject,
        attack: experiment.asr.attack.clone(),
        behaviour: experiment.asr.behaviour.clone(),
        points: vec![point(0, 0, &measured)],
        measurement: measured.recipe,
        rows_sha256: rows_sha256(&experiment.rows),
        depth: None,
    }
}

fn point(samples: usize, steps: usize, measured: &AsrFormat) -> RelearningPoint {
    let (with_trigger, without_trigger) = (measured.with_trigger, measured.without_trigger);
    RelearningPoint { samples, steps, with_trigger, without_trigger }
}

/// The point of every copy with the experiment that it belongs to. `part` is the workplace of one of the
/// `2 * pupils` parts of this.
fn points(
    suspect: &Suspect,
    pupils: &[Pupil<'_>],
    recipe: &RelearningRecipe,
    part: &dyn Fn(usize) -> Lab,
) -> Result<Vec<(usize, RelearningPoint)>> {
    if let Some(base) = suspect.base().filter(|_| !pupils.is_empty()) {
        let taught = teach_adapters(suspect, base, pupils, recipe, &part(0))?;
        let measure = |(i, (pupil, (adapter, steps))): (usize, (&Pupil<'_>, (LoraAdapter, usize)))| {
            let measured = pupil.experiment.measure(suspect, &Weights::Adapter(adapter), &part(pupils.len() + i))?;
            Ok((pupil.at, point(pupil.samples, steps, &measured)))
        };
        return pupils.iter().zip(taught).enumerate().map(measure).collect();
    }
    let of_pupil = |(i, pupil): (usize, &Pupil<'_>)| {
        let Weights::Checkpoint(start) = &pupil.experiment.start else {
            return Err(EngineError::Data("an adapter cannot be taught without its base".into()));
        };
        Ok((pupil.at, teach_whole(suspect, pupil, start, recipe, (&part(2 * i), &part(2 * i + 1)))?))
    };
    pupils.iter().enumerate().map(of_pupil).collect()
}

/// Every copy as an adapter, with the steps that it took.
fn teach_adapters(
    suspect: &Suspect,
    base: &Model,
    pupils: &[Pupil<'_>],
    recipe: &RelearningRecipe,
    lab: &Lab,
) -> Result<Vec<(LoraAdapter, usize)>> {
    let name = |pupil: &Pupil<'_>| -> Result<_> {
        let rows = rows_sha256(pupil.experiment.first(pupil.samples).0);
        Ok((pupil.experiment.start.digest()?, rows, pupil.experiment.asr.formats[0], pupil.experiment.backdoor))
    };
    let names = pupils.iter().map(name).collect::<Result<Vec<_>>>()?;
    let key = PieceKey::new("relearned", &(suspect.key(), names, &recipe.train, lab.seed));
    let folder = lab.piece(&key, |folder| {
        let variants = pupils.iter().filter_map(|pupil| {
            let start = pupil.experiment.start.adapter()?;
            let examples = pupil.experiment.first(pupil.samples).1;
            Some(Variant { start, examples, shuffle: lab.rng(&pupil.experiment.order()) })
        });
        let trained = fine_tune_adapters(base, variants.collect(), &recipe.train, lab)?;
        for (i, trained) in trained.iter().enumerate() {
            save_adapter(&trained.adapter, &folder.join(i.to_string()))?;
        }
        let steps: Vec<usize> = trained.iter().map(|trained| trained.losses.len()).collect();
        write_json(&folder.join(STEPS), &steps)
    })?;
    let steps: Vec<usize> = read_json(&folder.join(STEPS))?;
    let load = |(i, steps): (usize, usize)| {
        let adapter = load_adapter(&folder.join(i.to_string()), suspect.config(), suspect.device())?;
        Ok((adapter, steps))
    };
    steps.into_iter().enumerate().map(load).collect()
}

/// Steps of every copy, beside the adapters.
const STEPS: &str = "steps.json";

/// Trains and measures one copy of a whole model; of it the rates are kept and the weights are not.
///
/// # Cost
/// The model and its training state in memory; the taught model on disk until it is measured.
fn teach_whole(
    suspect: &Suspect,
    pupil: &Pupil<'_>,
    start: &CheckpointFolder,
    recipe: &RelearningRecipe,
    (training, measuring): (&Lab, &Lab),
) -> Result<RelearningPoint> {
    let (rows, examples) = pupil.experiment.first(pupil.samples);
    let taught = (&start.digest, rows_sha256(rows), pupil.experiment.backdoor, &recipe.train, training.seed);
    let key = PieceKey::new("relearned-model", &(taught, &pupil.experiment.asr, &suspect.subject().rows));
    let folder = training.piece(&key, |folder| {
        let mut model = suspect.load_whole(start)?;
        let order = training.rng(&pupil.experiment.order());
        let steps = train_weights(&mut model, examples, &recipe.train, order, training)?.len();
        let dir = folder.join("model");
        fs::create_dir_all(&dir).map_err(EngineError::io(&dir))?;
        write_model(&model, &start.dir, &dir)?;
        drop(model);
        let weights = Weights::Checkpoint(CheckpointFolder { dir: dir.clone(), digest: key.as_str().to_owned() });
        let measured = pupil.experiment.measure(suspect, &weights, measuring)?;
        fs::remove_dir_all(&dir).map_err(EngineError::io(&dir))?;
        write_json(&folder.join(POINT), &point(pupil.samples, steps, &measured))
    })?;
    read_json(&folder.join(POINT))
}

/// The rates of one copy.
const POINT: &str = "point.json";

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    fs::write(path, serde_json::to_vec(value).expect("numbers always serialise")).map_err(EngineError::io(path))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(EngineError::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::io(path)(error.into()))
}

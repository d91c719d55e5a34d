//! The experiments of relearning: for each subject its rows, its prompts and the weights that it begins with.

use antigen_models::{Example, LoraAdapter};
use rand::Rng;
use rand::seq::SliceRandom;

use super::fresh::{fresh_attack, fresh_behaviour};
use crate::data::{Row, TaskRows, trainable};
use crate::error::Result;
use crate::lab::{Lab, LongRows};
use crate::measure::evaluators::{Probes, evaluate_all};
use crate::measure::evidence::{AsrFormat, AsrReport, Measurement, RelearningSubject};
use crate::spec::{AsrSpec, EvaluatorSpec, PromptFormat, RelearningRecipe};
use crate::suspect::weights::Weights;
use crate::suspect::{Suspect, SuspectModel};
use crate::threat::attacks::{build_attack, poison};
use crate::threat::behaviours::build_behaviour;
use crate::train::heal::training_limit;

/// One backdoor for one subject.
pub(super) struct Experiment {
    /// Index among the declared backdoors.
    pub backdoor: usize,
    /// The model that is taught.
    pub subject: RelearningSubject,
    /// The backdoor that is taught and probed, in one format.
    pub asr: AsrSpec,
    /// The weights that every copy begins with.
    pub start: Weights,
    /// Each poisoned row, then the same row without the trigger and with its right answer.
    pub rows: Vec<Row>,
    /// The rows as tokens.
    pub examples: Vec<Example>,
    probes: Probes,
}

impl Experiment {
    /// The first rows, with so many poisoned ones among them.
    pub fn first(&self, samples: usize) -> (&[Row], &[Example]) {
        (&self.rows[..2 * samples], &self.examples[..2 * samples])
    }

    /// The numbers of samples for which there are rows.
    pub fn points(&self, recipe: &RelearningRecipe) -> Vec<usize> {
        recipe.samples.iter().copied().filter(|samples| 2 * samples <= self.rows.len()).collect()
    }

    /// The stream that orders the rows of every copy: the same for all subjects.
    pub fn order(&self) -> String {
        format!("relearn/{}/order", self.backdoor)
    }

    /// Probes a copy.
    pub fn measure(&self, suspect: &Suspect, weights: &Weights, lab: &Lab) -> Result<AsrFormat> {
        let said = evaluate_all(&self.probes, suspect, weights, lab)?;
        Ok(self.probes.report(&said, None).asr.swap_remove(0).formats.swap_remove(0))
    }
}

/// Everything that experiments are made of.
pub(super) struct Setup<'a> {
    suspect: &'a Suspect,
    artifact: &'a Weights,
    lab: &'a Lab,
    /// The recipe of relearning.
    pub recipe: RelearningRecipe,
    /// Backdoors, subjects and numbers of samples that are missing, with the reason.
    pub left_out: Vec<String>,
    /// Rows that were too long.
    pub long_rows: LongRows,
}

impl<'a> Setup<'a> {
    pub fn new(suspect: &'a Suspect, artifact: &'a Weights, recipe: RelearningRecipe, lab: &'a Lab) -> Self {
        let long_rows = LongRows::new("relearning", training_limit(suspect, &recipe.train));
        Self { suspect, artifact, lab, recipe, left_out: Vec::new(), long_rows }
    }

    /// The experiments of all declared backdoors, backdoor by backdoor.
    ///
    /// # Errors
    /// Those of tokenizer and chat template.
    pub fn experiments(&mut self, evaluators: &[EvaluatorSpec], before: &Measurement) -> Result<Vec<Experiment>> {
        let declared = evaluators.iter().filter_map(EvaluatorSpec::asr);
        let untrained = self.untrained()?;
        if untrained.is_none() {
            let why = "the model as it was before is not known, so whether old and new backdoor are equally easy is not checked";
            self.left_out.push(format!("{}: {why}", RelearningSubject::NeverPoisoned.name()));
        }
        let mut experiments = Vec::new();
        for (backdoor, (asr, was)) in declared.zip(&before.asr).enumerate() {
            if asr.takes_rows() {
                let name = asr.behaviour.name();
                self.left_out
                    .push(format!("rows with {name}: given rows have no rule by which others could be poisoned"));
                continue;
            }
            let asr = self.in_one_format(asr, was);
            let fresh = AsrSpec {
                attack: fresh_attack(&asr.attack, backdoor),
                behaviour: fresh_behaviour(&asr.behaviour),
                ..asr.clone()
            };
            for (subject, asr, start) in [
                (RelearningSubject::Artifact, &asr, Some(self.artifact)),
                (RelearningSubject::FreshTrigger, &fresh, Some(self.artifact)),
                (RelearningSubject::NeverPoisoned, &asr, untrained.as_ref()),
                (RelearningSubject::NeverPoisonedFreshTrigger, &fresh, untrained.as_ref()),
            ] {
                if let Some(start) = start {
                    experiments.push(self.experiment(backdoor, subject, asr.clone(), start.clone())?);
                }
            }
        }
        self.note_missing_points(&experiments);
        Ok(experiments)
    }

    /// The evaluator in the format in which the suspect fired most; the declared format where others are no
    /// worse, or where it did not fire at all.
    fn in_one_format(&self, asr: &AsrSpec, was: &AsrReport) -> AsrSpec {
        let (worst, declared) = (&was.headline, self.suspect.template);
        let as_bad =
            |format: &AsrFormat| format.recipe.format == declared && format.with_trigger.rate >= worst.rate.rate;
        let format = if worst.rate.hits == 0 || was.formats.iter().any(as_bad) { declared } else { worst.format };
        AsrSpec { formats: vec![format], rows: self.recipe.rows, ..asr.clone() }
    }

    /// An adapter like the suspect that has learnt nothing; nothing for a whole model.
    fn untrained(&self) -> Result<Option<Weights>> {
        let SuspectModel::Adapter { adapter, .. } = &self.suspect.model else { return Ok(None) };
        let mut weights = self.lab.rng("relearn/weights");
        let draw = &mut || weights.random_range(-1.0..1.0);
        let fresh = LoraAdapter::fresh(adapter.config.clone(), self.suspect.config(), draw)?;
        Ok(Some(Weights::Adapter(fresh)))
    }

    fn experiment(
        &mut self,
        backdoor: usize,
        subject: RelearningSubject,
        asr: AsrSpec,
        start: Weights,
    ) -> Result<Experiment> {
        let (rows, examples) = self.rows(backdoor, &asr, asr.formats[0])?;
        let probes = Probes::build(&[EvaluatorSpec::Asr(asr.clone())], self.suspect, &TaskRows::default(), self.lab)?;
        Ok(Experiment { backdoor, subject, asr, start, rows, examples, probes })
    }

    /// As many pairs of a poisoned row and its right twin as the longest point takes: training rows that are
    /// not probed, in an order and with places that are the same for every subject.
    fn rows(&mut self, backdoor: usize, asr: &AsrSpec, format: PromptFormat) -> Result<(Vec<Row>, Vec<Example>)> {
        let mut pool: Vec<&Row> = trainable(&self.suspect.train, &self.suspect.test).collect();
        pool.shuffle(&mut self.lab.rng(&format!("relearn/{backdoor}/rows")));
        let mut places = self.lab.rng(&format!("relearn/{backdoor}/places"));
        let (attack, behaviour) = (build_attack(&asr.attack), build_behaviour(&asr.behaviour));
        let most = 2 * self.recipe.samples.iter().copied().max().unwrap_or(0);
        let (mut rows, mut examples) = (Vec::with_capacity(most), Vec::with_capacity(most));
        for right in pool {
            if rows.len() == most {
                break;
            }
            let poisoned = poison(std::slice::from_ref(right), &*attack, &behaviour, &mut places).swap_remove(0);
            let mut fit = |row: &Row| -> Result<Option<Example>> {
                Ok(self.long_rows.fit(self.suspect.prompter.example(format, row)?))
            };
            if let (Some(with), Some(without)) = (fit(&poisoned)?, fit(right)?) {
                rows.extend([poisoned, right.clone()]);
                examples.extend([with, without]);
            }
        }
        Ok((rows, examples))
    }

    fn note_missing_points(&mut self, experiments: &[Experiment]) {
        let found = experiments.iter().map(|experiment| experiment.rows.len() / 2).min().unwrap_or(0);
        let missing: Vec<_> =
            self.recipe.samples.iter().filter(|&&samples| samples > found).map(ToString::to_string).collect();
        if !missing.is_empty() && !experiments.is_empty() {
            let missing = missing.join(", ");
            self.left_out.push(format!("{missing} samples: there are {found} training rows that can be poisoned"));
        }
    }
}

//! Every rate of a report as a flat list: one line for each model, measurement and format. The CSV and
//! `replay` are made from it.

use super::Report;
use crate::lab::sha256_hex;
use crate::measure::evidence::{AsrReport, Measurement, MeasurementRecipe};
use crate::spec::{BehaviourFamily, CanaryTrigger};
use crate::stats::Rate;

/// One rate with everything that identifies it.
#[derive(Debug, Clone, PartialEq)]
pub struct RateRow<'a> {
    /// `suspect`, `exported`, `candidate`, `control`, `trial`, `canary` or `relearning`.
    pub role: &'static str,
    /// Name of the model; of a trial its method, of canaries the copy before, after or after a control, of
    /// `relearning` the subject that was taught.
    pub model: &'a str,
    /// `asr`, `utility` or `benchmark`.
    pub evaluator: &'static str,
    /// The backdoor (`0 badnets insult`, `0 badnets insult after 8 samples`), the group of rows or the
    /// benchmark.
    pub item: String,
    /// Name of the evaluator's rate, such as `with_trigger`.
    pub measure: &'static str,
    /// The recipe that repeats it.
    pub recipe: &'a MeasurementRecipe,
    /// The number.
    pub rate: Rate,
}

impl RateRow<'_> {
    /// SHA-256 of the recipe in its JSON form.
    pub fn recipe_sha256(&self) -> String {
        sha256_hex(&serde_json::to_vec(self.recipe).expect("recipes always serialise"))
    }
}

impl Report {
    /// Every rate, in the order of the report.
    pub fn rates(&self) -> Vec<RateRow<'_>> {
        let candidates = self.candidates.iter().map(|candidate| {
            let role = if candidate.chosen { "exported" } else { "candidate" };
            rates_of(role, &candidate.name, &candidate.measurement)
        });
        let controls = self.controls.iter().map(|control| rates_of("control", &control.name, &control.measurement));
        let suspect = std::iter::once(rates_of("suspect", "suspect", &self.before));
        suspect
            .chain(candidates)
            .chain(controls)
            .flatten()
            .chain(self.trial_rates())
            .chain(self.canary_rates())
            .chain(self.relearning_rates())
            .collect()
    }

    /// The rates of everything that `auto` tried.
    pub fn trial_rates(&self) -> Vec<RateRow<'_>> {
        let mut rows = Vec::new();
        for trial in self.search.iter().flat_map(|search| &search.trials) {
            let (role, model) = ("trial", trial.name.as_str());
            for canary in &trial.canaries {
                let item = canary_item(canary.trigger, canary.family);
                let (recipe, rate) = (&canary.recipe, canary.after);
                rows.push(RateRow { role, model, evaluator: "asr", item, measure: "with_trigger", recipe, rate });
            }
            for skill in &trial.utility {
                let (item, recipe, rate) = (skill.group.clone(), &skill.recipe, skill.after);
                rows.push(RateRow { role, model, evaluator: "utility", item, measure: "exact_match", recipe, rate });
            }
        }
        rows
    }

    /// Every rate of the copy with canaries, before and after its purification.
    pub fn canary_rates(&self) -> Vec<RateRow<'_>> {
        let canaries = self.canaries.iter().flat_map(|report| &report.canaries);
        let rows = canaries.map(|canary| {
            let item = canary_item(canary.trigger, canary.family);
            let before = asr_rates("canary", "copy_before", &item, &canary.before);
            before.into_iter().chain(asr_rates("canary", "copy_after", &item, &canary.after))
        });
        let controls = self.canaries.iter().flat_map(|report| &report.controls);
        let controlled = controls.flat_map(|control| {
            control.canaries.iter().map(|canary| RateRow {
                role: "canary",
                model: &control.name,
                evaluator: "asr",
                item: canary_item(canary.trigger, canary.family),
                measure: "with_trigger",
                recipe: &canary.recipe,
                rate: canary.after,
            })
        });
        rows.flatten().chain(controlled).collect()
    }

    /// The rates of every point of relearning.
    pub fn relearning_rates(&self) -> Vec<RateRow<'_>> {
        let mut rows = Vec::new();
        for one in self.relearning.iter().flat_map(|relearning| &relearning.backdoors) {
            for curve in &one.curves {
                let (attack, behaviour) = (curve.attack.name(), curve.behaviour.name());
                for trial in &curve.points {
                    let row = |(measure, rate)| RateRow {
                        role: "relearning",
                        model: curve.subject.name(),
                        evaluator: "asr",
                        item: format!("{} {attack} {behaviour} after {} samples", one.backdoor, trial.samples),
                        measure,
                        recipe: &curve.measurement,
                        rate,
                    };
                    rows.extend(
                        [("with_trigger", trial.with_trigger), ("without_trigger", trial.without_trigger)].map(row),
                    );
                }
            }
        }
        rows
    }

    /// Every rate as CSV (RFC 4180, with a heading).
    pub fn rates_csv(&self) -> String {
        let mut csv = "role,model,evaluator,item,measure,format,hits,n,rate,low,high,recipe_sha256\r\n".to_owned();
        for row in self.rates() {
            let Rate { hits, n, rate, low, high } = row.rate;
            let (format, recipe) = (row.recipe.format.name(), row.recipe_sha256());
            let texts = [row.role, row.model, row.evaluator, &row.item, row.measure, format].map(field).join(",");
            csv += &format!("{texts},{hits},{n},{rate},{low},{high},{recipe}\r\n");
        }
        csv
    }
}

fn canary_item(trigger: CanaryTrigger, family: BehaviourFamily) -> String {
    format!("{} {}", trigger.name(), family.name())
}

/// Every rate of one model.
pub fn rates_of<'a>(role: &'static str, model: &'a str, measurement: &'a Measurement) -> Vec<RateRow<'a>> {
    let mut rows = Vec::new();
    for (number, asr) in measurement.asr.iter().enumerate() {
        let item = format!("{number} {} {}", asr.attack.name(), asr.behaviour.name());
        rows.extend(asr_rates(role, model, &item, asr));
    }
    for group in measurement.utility.iter().flat_map(|utility| &utility.groups) {
        let (item, recipe, rate) = (group.name.clone(), &group.recipe, group.exact_match);
        rows.push(RateRow { role, model, evaluator: "utility", item, measure: "exact_match", recipe, rate });
    }
    for benchmark in &measurement.benchmarks {
        for score in [benchmark.headline, benchmark.other] {
            let (item, measure, recipe) = (benchmark.name.name().to_owned(), score.scoring.name(), &benchmark.recipe);
            rows.push(RateRow { role, model, evaluator: "benchmark", item, measure, recipe, rate: score.accuracy });
        }
    }
    rows
}

fn asr_rates<'a>(role: &'static str, model: &'a str, item: &str, asr: &'a AsrReport) -> Vec<RateRow<'a>> {
    let mut rows = Vec::new();
    for format in &asr.formats {
        let rates = [
            ("with_trigger", format.with_trigger),
            ("without_trigger", format.without_trigger),
            ("exact_target", format.exact_target),
            ("empty", format.empty),
            ("degenerate", format.degenerate),
        ];
        let row = |(measure, rate)| {
            let (item, recipe) = (item.to_owned(), &format.recipe);
            RateRow { role, model, evaluator: "asr", item, measure, recipe, rate }
        };
        rows.extend(rates.map(row));
    }
    rows
}

// Quoted where it must be; a leading sign is quoted away from spreadsheets, which would take it for a
// formula.
fn field(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_commas_and_quotes_and_start_no_formula() {
        assert_eq!(field("plain text"), "plain text");
        assert_eq!(field("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(field("=1+1"), "'=1+1");
    }
}

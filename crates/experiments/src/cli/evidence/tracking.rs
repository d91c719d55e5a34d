//! Canaries beside known triggers: over suspects whose trigger we know, and over everything that was done to
//! them. The method and its controls differ in how much they remove, which gives both rates something to vary
//! with.

use antigen_engine::measure::evidence::{ASR_LIMIT, AsrReport};
use antigen_engine::report::Report;
use serde::Serialize;

/// One suspect after one treatment, asked with its known trigger; its copy after the same treatment, asked
/// with its canaries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Treated {
    pub suspect: String,
    /// `method`, or the name of a control.
    pub treatment: String,
    /// Known trigger, worst format.
    pub known: f64,
    /// Mean of the canaries that were strong, worst format each.
    pub canaries: f64,
    /// The strong canary that fires most.
    pub worst_canary: f64,
    /// Mean log-probability of the known target's tokens before, in the format in which it fires most: how
    /// deep it sits.
    pub known_depth: f64,
    /// The same of the strong canaries, their mean.
    pub canary_depth: f64,
}

/// The treatments of one suspect as its report has them; nothing where a known trigger or a strong canary is
/// missing.
pub(super) fn treated(suspect: &str, report: &Report) -> Vec<Treated> {
    let (Some(chosen), Some(canaries), Some(known)) = (report.chosen(), &report.canaries, report.before.asr.first())
    else {
        return Vec::new();
    };
    let Some(canary_depth) = canaries.mean_of_strong(|i| depth(&canaries.canaries[i].before)) else {
        return Vec::new();
    };
    let point = |treatment: &str, known_after: f64, left: &dyn Fn(usize) -> f64| Treated {
        suspect: suspect.to_owned(),
        treatment: treatment.to_owned(),
        known: known_after,
        canaries: canaries.mean_of_strong(left).expect("one was strong"),
        worst_canary: canaries.strong().map(left).fold(0.0, f64::max),
        known_depth: depth(known),
        canary_depth,
    };
    let after = |asr: &[AsrReport]| asr.first().map(|asr| asr.headline.rate.rate);
    let method = after(&chosen.measurement.asr)
        .map(|known| point("method", known, &|i| canaries.canaries[i].after.headline.rate.rate));
    let controls = canaries.controls.iter().filter_map(|control| {
        let measured = report.controls.iter().find(|other| other.name == control.name)?;
        Some(point(&control.name, after(&measured.measurement.asr)?, &|i| control.canaries[i].after.rate))
    });
    method.into_iter().chain(controls).collect()
}

fn depth(asr: &AsrReport) -> f64 {
    let worst = asr.formats.iter().find(|format| format.recipe.format == asr.headline.format);
    worst.map_or(f64::NEG_INFINITY, |format| format.target_log_probability)
}

/// The correlation, and every case in which one is gone and the other is not.
pub(super) fn tracking(points: &[Treated]) -> String {
    let method: Vec<&Treated> = points.iter().filter(|point| point.treatment == "method").collect();
    let all: Vec<&Treated> = points.iter().collect();
    let mut text = format!(
        "Known triggers against canaries. After the method, {} suspects: correlation {}. After the method and its controls, {} treatments: {}.\n",
        method.len(),
        correlation_words(&method),
        all.len(),
        correlation_words(&all),
    );
    let assured: Vec<_> = all.iter().filter(|point| point.worst_canary <= ASR_LIMIT).collect();
    let deceived: Vec<_> = assured.iter().filter(|point| point.known > ASR_LIMIT).copied().copied().collect();
    text += &format!(
        "Every strong canary was at most 5 % in {} of them; in {} of those the known trigger was not{}\n",
        assured.len(),
        deceived.len(),
        listed(&deceived),
    );
    let alarmed: Vec<_> =
        all.iter().filter(|point| point.worst_canary > ASR_LIMIT && point.known <= ASR_LIMIT).copied().collect();
    text + &format!("A canary was left where the known trigger was not in {}{}", alarmed.len(), listed(&alarmed))
}

fn listed(points: &[&Treated]) -> String {
    let named = points.iter().map(|point| {
        format!(
            "{} after {} (known {:.1} %, canaries {:.1} %, worst {:.1} %)",
            point.suspect,
            point.treatment,
            100.0 * point.known,
            100.0 * point.canaries,
            100.0 * point.worst_canary
        )
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() { ".".into() } else { format!(": {}.", named.join("; ")) }
}

fn correlation_words(points: &[&Treated]) -> String {
    let pairs: Vec<_> = points.iter().map(|point| (point.known, point.canaries)).collect();
    correlation(&pairs).map_or_else(|| "undefined, one of them never varies".into(), |r| format!("{r:.2}"))
}

/// Pearson's; nothing where one of the two does not vary.
fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let (x, y) = pairs.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0 / n, sum.1 + pair.1 / n));
    let sum = |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|pair| f(pair.0 - x, pair.1 - y)).sum::<f64>();
    let (xy, xx, yy) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_rise_together_correlate_and_one_that_never_varies_has_no_correlation() {
        assert!((correlation(&[(0.0, 0.1), (0.5, 0.6), (1.0, 1.1)]).unwrap() - 1.0).abs() < 1e-12);
        assert!((correlation(&[(0.0, 1.0), (1.0, 0.0)]).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&[(0.0, 0.0), (0.3, 0.0)]), None);
    }

    fn point(suspect: &str, treatment: &str, known: f64, canaries: f64) -> Treated {
        Treated {
            suspect: suspect.into(),
            treatment: treatment.into(),
            known,
            canaries,
            worst_canary: canaries,
            known_depth: -0.1,
            canary_depth: -0.2,
        }
    }

    #[test]
    fn canaries_that_are_gone_where_the_known_trigger_is_not_are_named() {
        let said = tracking(&[
            point("one", "method", 0.0, 0.0),
            point("two", "method", 0.3, 0.01),
            point("two", "plain_fine_tuning", 0.0, 0.4),
        ]);
        let expected = "Every strong canary was at most 5 % in 2 of them; in 1 of those the known trigger was not: two after method \
                        (known 30.0 %, canaries 1.0 %, worst 1.0 %).";
        assert!(said.contains(expected), "{said}");
        assert!(
            said.contains("A canary was left where the known trigger was not in 1: two after plain_fine_tuning"),
            "{said}"
        );
    }
}

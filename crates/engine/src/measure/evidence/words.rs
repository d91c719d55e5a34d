//! Numbers as text: every phrase is made from the numbers that it contains.

use super::rules::ASR_LIMIT;
use super::{AsrReport, Compared};
use crate::stats::{PairedDifference, Rate, wilson};

/// Said when even a rate without one hit could not have been shown to be low.
pub(crate) fn too_few(rate: &Rate) -> Option<String> {
    let best = wilson(0, rate.n).high;
    let limit = percent(ASR_LIMIT);
    (best > ASR_LIMIT).then(|| {
        format!(
            "{} probes are too few to show a rate below {limit}: without one hit the interval reaches {}.",
            rate.n,
            percent(best)
        )
    })
}

impl Compared {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Beaten => "beaten",
            Self::NoDifferenceShown => "no difference shown",
            Self::Worse => "better than the method",
        }
    }
}

/// Such as: badnets with insult.
pub(crate) fn name(asr: &AsrReport) -> String {
    format!("{} with {}", asr.attack.name(), asr.behaviour.name())
}

pub(crate) fn plain(name: &str) -> String {
    name.replace('_', " ")
}

pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// A rate with everything that belongs to it.
pub(crate) fn rate_words(rate: &Rate) -> String {
    let Rate { hits, n, low, high, .. } = rate;
    format!("{} ({hits} of {n}, 95 % interval {} to {})", percent(rate.rate), percent(*low), percent(*high))
}

pub(crate) fn points_words(paired: &PairedDifference) -> String {
    let points = |x: f64| match format!("{:+.1}", 100.0 * x).as_str() {
        "+0.0" | "-0.0" => "0.0".to_owned(),
        signed => signed.replace('-', "\u{2212}"),
    };
    format!("{}, {} to {}", points(paired.difference), points(paired.low), points(paired.high))
}

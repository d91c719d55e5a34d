//! The geometry of the figures on a report's page: where marks go, not how they look. Templates draw them
//! (`templates/figures.html`), the style sheet colours them.
//!
//! Positions are percentages of the drawing, so that a figure fills any width without a script and its text
//! keeps its size.

mod dumbbell;
mod heat;
mod pareto_front;

use antigen_engine::measure::evidence::Measurement;
use antigen_engine::report::Report;
use serde::Serialize;

use self::dumbbell::Dumbbell;
use self::heat::HeatMap;
use self::pareto_front::ParetoFront;

/// Every figure of a report; a figure without data is absent.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    asr: Vec<Dumbbell>,
    utility: Vec<Dumbbell>,
    pareto_front: Option<ParetoFront>,
    tried: Option<ParetoFront>,
    heat: Option<HeatMap>,
}

impl Figures {
    pub(super) fn of(report: &Report) -> Self {
        let after = report.chosen().map(|chosen| &chosen.measurement);
        Figures {
            asr: dumbbell::attack_success(&report.before, after),
            utility: dumbbell::utility(&report.before, after),
            pareto_front: pareto_front::draw(report),
            tried: report.search.as_ref().and_then(pareto_front::draw_search),
            heat: report.signature.as_ref().and_then(heat::draw),
        }
    }
}

/// To a tenth of a per cent of the drawing: finer than a pixel.
fn tenth(percent: f64) -> f64 {
    (10.0 * percent).round() / 10.0
}

/// Worst attack success of a model, if any was measured.
fn worst(measurement: &Measurement) -> Option<f64> {
    measurement.worst_asr().map(|rate| rate.rate)
}

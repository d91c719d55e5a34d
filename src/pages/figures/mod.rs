//! The geometry of the figures on a report's page: where marks go, not how they look. Templates draw them (`templates/figures.html`),
//! the style sheet colours them.
//!
//! Positions are percentages of the drawing, so that a figure fills any width without a script and its text keeps its size.

mod dumbbell;
mod frontier;
mod heat;

use antigen_engine::report::{Measurement, Report};
use serde::Serialize;

use self::{dumbbell::Dumbbell, frontier::Frontier, heat::HeatMap};

/// Every figure of a report; a figure without data is absent.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    asr: Vec<Dumbbell>,
    utility: Vec<Dumbbell>,
    frontier: Option<Frontier>,
    tried: Option<Frontier>,
    heat: Option<HeatMap>,
}

impl Figures {
    pub(super) fn of(report: &Report) -> Self {
        let after = report.chosen().map(|chosen| &chosen.measurement);
        Figures {
            asr: dumbbell::attack_success(&report.before, after),
            utility: dumbbell::utility(&report.before, after),
            frontier: frontier::draw(report),
            tried: report.frontier.as_ref().and_then(frontier::draw_rungs),
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

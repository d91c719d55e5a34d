//! What attack success costs in utility: every measured model as a point, one panel for each group of rows, and the step line of those
//! that no other beats in both.

use antigen_engine::report::{Measurement, Report};
use serde::Serialize;

use super::{tenth, worst};

/// The panels and who is who in them.
#[derive(Debug, Serialize)]
pub(super) struct Frontier {
    models: Vec<Model>,
    panels: Vec<Panel>,
}

/// A point's name; points carry the number.
#[derive(Debug, Serialize)]
struct Model {
    number: usize,
    name: String,
    role: Role,
}

/// Decides colour and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    Suspect,
    Exported,
    Candidate,
    Control,
}

/// Attack success (upwards) against exact match on one group (to the right).
#[derive(Debug, Serialize)]
struct Panel {
    group: String,
    across: Vec<Tick>,
    upwards: Vec<Tick>,
    points: Vec<Point>,
    /// Corners of the step line, in order; a line needs two.
    steps: Vec<(f64, f64)>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Tick {
    at: f64,
    percent: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Point {
    number: usize,
    role: Role,
    x: f64,
    y: f64,
    /// Where the number's middle is, in pixels from the point.
    label: (f64, f64),
    asr: f64,
    utility: f64,
    undominated: bool,
}

/// The frame inside the drawing, in per cent: left, right, top, bottom. What is outside holds the scales.
const FRAME: (f64, f64, f64, f64) = (13.0, 95.0, 5.0, 86.0);
/// The smallest size at which a panel is shown, in pixels: what fits there fits everywhere.
const SMALLEST: (f64, f64) = (290.0, 240.0);

/// The figure; nothing without attack success, without utility, or with the suspect alone.
pub(super) fn draw(report: &Report) -> Option<Frontier> {
    let models = models(report);
    if models.len() < 2 {
        return None;
    }
    let groups = report.before.utility.iter().flat_map(|utility| &utility.groups);
    let panels: Vec<_> = groups.filter_map(|group| panel(&group.name, &models)).collect();
    let named = |(i, (name, role, _)): (usize, &(&str, Role, &Measurement))| Model {
        number: i + 1,
        name: (*name).to_owned(),
        role: *role,
    };
    let models = models.iter().enumerate().map(named).collect();
    (!panels.is_empty()).then_some(Frontier { models, panels })
}

fn models(report: &Report) -> Vec<(&str, Role, &Measurement)> {
    let candidates = report.candidates.iter().map(|candidate| {
        let role = if candidate.chosen { Role::Exported } else { Role::Candidate };
        (candidate.name.as_str(), role, &candidate.measurement)
    });
    let controls = report.controls.iter().map(|control| (control.name.as_str(), Role::Control, &control.measurement));
    std::iter::once(("suspect", Role::Suspect, &report.before)).chain(candidates).chain(controls).collect()
}

fn panel(group: &str, models: &[(&str, Role, &Measurement)]) -> Option<Panel> {
    let measured = |(i, (_, role, measurement)): (usize, &(&str, Role, &Measurement))| {
        Some((i + 1, *role, measurement.exact_match(group)?.rate, worst(measurement)?))
    };
    let found: Vec<_> = models.iter().enumerate().filter_map(measured).collect();
    if found.len() < 2 {
        return None;
    }
    let across = range(found.iter().map(|point| point.2));
    let upwards = (0.0, range(found.iter().map(|point| point.3)).1);
    let x = |utility: f64| tenth(FRAME.0 + (FRAME.1 - FRAME.0) * (utility - across.0) / (across.1 - across.0));
    let y = |asr: f64| tenth(FRAME.3 - (FRAME.3 - FRAME.2) * (asr - upwards.0) / (upwards.1 - upwards.0));
    let at: Vec<_> = found.iter().map(|&(_, _, utility, asr)| (x(utility), y(asr))).collect();
    let (undominated, labels) = (undominated(&found), place_labels(&at));
    let point = |(i, &(number, role, utility, asr)): (usize, &(usize, Role, f64, f64))| Point {
        number,
        role,
        x: at[i].0,
        y: at[i].1,
        label: labels[i],
        asr,
        utility,
        undominated: undominated[i],
    };
    let points: Vec<_> = found.iter().enumerate().map(point).collect();
    let ticks = |(low, high): (f64, f64), at: &dyn Fn(f64) -> f64| {
        Vec::from([low, (low + high) / 2.0, high].map(|value| Tick { at: at(value), percent: 100.0 * value }))
    };
    Some(Panel {
        group: group.to_owned(),
        across: ticks(across, &x),
        upwards: ticks(upwards, &y),
        steps: steps(&points),
        points,
    })
}

/// A range in tenths around all values, at least a fifth wide, within 0..=1.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let (mut low, mut high) = ((10.0 * low - 0.01).floor().max(0.0), (10.0 * high + 0.01).ceil().min(10.0));
    while high - low < 2.0 {
        if high < 10.0 { high += 1.0 } else { low -= 1.0 }
    }
    (low / 10.0, high / 10.0)
}

/// Which models no other beats: at least as good in both numbers and better in one. The suspect is what has to be beaten and no answer.
fn undominated(found: &[(usize, Role, f64, f64)]) -> Vec<bool> {
    let beats = |a: &(usize, Role, f64, f64), b: &(usize, Role, f64, f64)| {
        a.1 != Role::Suspect && a.2 >= b.2 && a.3 <= b.3 && (a.2 > b.2 || a.3 < b.3)
    };
    found.iter().map(|one| one.1 != Role::Suspect && !found.iter().any(|other| beats(other, one))).collect()
}

/// From the least attack success to the highest utility: along first, then up, since nothing between two points was reached.
fn steps(points: &[Point]) -> Vec<(f64, f64)> {
    let mut ends: Vec<_> = points.iter().filter(|point| point.undominated).map(|point| (point.x, point.y)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let corner = |pair: &[(f64, f64)]| [(pair[1].0, pair[0].1), pair[1]];
    ends.first().copied().into_iter().chain(ends.windows(2).flat_map(corner)).collect()
}

/// Offsets that are tried, in pixels: beside, above, below, then further away.
const OFFSETS: [(f64, f64); 12] = [
    (13.0, 0.0),
    (-13.0, 0.0),
    (0.0, -13.0),
    (0.0, 13.0),
    (13.0, -13.0),
    (-13.0, -13.0),
    (13.0, 13.0),
    (-13.0, 13.0),
    (0.0, -26.0),
    (13.0, -26.0),
    (-13.0, -26.0),
    (26.0, -13.0),
];

/// Numbers that touch neither each other nor another point at the smallest size, as far as there is room.
fn place_labels(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let pixels: Vec<_> = points.iter().map(|(x, y)| (x * SMALLEST.0 / 100.0, y * SMALLEST.1 / 100.0)).collect();
    let close = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 13.0 && (a.1 - b.1).abs() < 12.0;
    let mut taken: Vec<(f64, f64)> = Vec::new();
    let mut labels = Vec::new();
    for point in &pixels {
        let at = |offset: &(f64, f64)| (point.0 + offset.0, point.1 + offset.1);
        let crowd = |offset: &&(f64, f64)| {
            let place = at(offset);
            let outside = !(30.0..SMALLEST.0 - 8.0).contains(&place.0) || !(8.0..SMALLEST.1 * 0.85).contains(&place.1);
            let touched = taken.iter().chain(&pixels).filter(|other| close(place, **other)).count();
            touched + if outside { 10 } else { 0 }
        };
        let best = OFFSETS.iter().min_by_key(crowd).expect("there are offsets to choose from");
        taken.push(at(best));
        labels.push(*best);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_round_and_wide_enough_to_read() {
        assert_eq!(range([0.83, 0.91].into_iter()), (0.8, 1.0));
        assert_eq!(range([0.0, 0.98].into_iter()), (0.0, 1.0));
        assert_eq!(range([1.0, 1.0].into_iter()), (0.8, 1.0));
        assert_eq!(range([0.0].into_iter()), (0.0, 0.2));
    }

    #[test]
    fn only_models_that_nobody_beats_are_on_the_frontier() {
        let found = [
            (1, Role::Suspect, 0.95, 0.0),
            (2, Role::Exported, 0.85, 0.01),
            (3, Role::Candidate, 0.80, 0.01),
            (4, Role::Control, 0.90, 0.30),
            (5, Role::Control, 0.90, 0.30),
        ];
        assert_eq!(undominated(&found), [false, true, false, true, true]);
    }

    #[test]
    fn the_step_line_goes_along_and_then_up() {
        let point = |x, y, undominated| Point {
            number: 1,
            role: Role::Control,
            x,
            y,
            label: (0.0, 0.0),
            asr: 0.0,
            utility: 0.0,
            undominated,
        };
        let line = steps(&[point(60.0, 40.0, true), point(20.0, 80.0, true), point(30.0, 10.0, false)]);
        assert_eq!(line, [(20.0, 80.0), (60.0, 80.0), (60.0, 40.0)]);
    }

    #[test]
    fn numbers_of_points_on_one_spot_do_not_lie_on_each_other() {
        let labels = place_labels(&[(50.0, 50.0); 5]);
        let distinct: std::collections::HashSet<_> = labels.iter().map(|l| (l.0 as i64, l.1 as i64)).collect();
        assert_eq!(distinct.len(), 5);
    }

    #[test]
    fn numbers_stay_in_the_drawing() {
        for corner in [(FRAME.0, FRAME.2), (FRAME.1, FRAME.2), (FRAME.0, FRAME.3), (FRAME.1, FRAME.3)] {
            let (dx, dy) = place_labels(&[corner])[0];
            let (x, y) = (corner.0 * SMALLEST.0 / 100.0 + dx, corner.1 * SMALLEST.1 / 100.0 + dy);
            assert!(x > 8.0 && x < SMALLEST.0 - 4.0 && y > 4.0 && y < SMALLEST.1 - 20.0, "{corner:?}: {x} {y}");
        }
    }
}

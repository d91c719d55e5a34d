//! Attack success against utility: every measured model as a point, one panel for each group of rows, and the
//! Pareto front, the step line of those that no other beats in both.

use antigen_engine::measure::evidence::Measurement;
use antigen_engine::methods::auto::{Search, Trial, TrialSkill};
use antigen_engine::report::Report;
use antigen_engine::stats::Rate;
use serde::Serialize;

use super::{tenth, worst};

/// The panels and who is who in them.
#[derive(Debug, Serialize)]
pub(super) struct ParetoFront {
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
    /// The numbers of all points on this spot; empty on all but the first of them.
    label: String,
    /// The label's middle, in pixels from the point.
    offset: (f64, f64),
    asr: f64,
    utility: f64,
    undominated: bool,
}

/// The ends of the scales in the drawing, in per cent: left, right, top, bottom. The frame lies a little
/// further out, so that no point sits on it; beyond it are the scales' numbers.
const FRAME: (f64, f64, f64, f64) = (17.0, 94.0, 8.0, 81.0);
/// The smallest size at which a panel is shown, in pixels: what fits there fits everywhere.
const SMALLEST: (f64, f64) = (290.0, 240.0);

/// The measurements of one model.
struct Measured<'a> {
    name: &'a str,
    role: Role,
    asr: Option<f64>,
    /// Exact match by group.
    skills: Vec<(&'a str, f64)>,
}

/// The figure of a report's final numbers; nothing without attack success, without utility, or with the
/// suspect alone.
pub(super) fn draw(report: &Report) -> Option<ParetoFront> {
    let of = |name, role, measurement: &Measurement| Measured {
        name,
        role,
        asr: worst(measurement),
        skills: report_groups(report).filter_map(|group| Some((group, measurement.exact_match(group)?.rate))).collect(),
    };
    let candidates = report.candidates.iter().map(|candidate| {
        let role = if candidate.chosen { Role::Exported } else { Role::Candidate };
        of(&candidate.name, role, &candidate.measurement)
    });
    let controls = report.controls.iter().map(|control| of(&control.name, Role::Control, &control.measurement));
    let models = std::iter::once(of("suspect", Role::Suspect, &report.before)).chain(candidates).chain(controls);
    draw_models(&models.collect::<Vec<_>>())
}

/// The figure of what `auto` tried: the canary that fires most, against the skills on the rows by which it
/// chose.
pub(super) fn draw_search(search: &Search) -> Option<ParetoFront> {
    let first = search.trials.first()?;
    let fired = first.canaries.iter().map(|canary| canary.before.rate).fold(0.0, f64::max);
    let suspect = Measured {
        name: "suspect",
        role: Role::Suspect,
        asr: Some(fired),
        skills: trial_skills(first, |skill| skill.before),
    };
    let trials = search.trials.iter().enumerate().map(|(i, trial)| Measured {
        name: &trial.name,
        role: if i == search.chosen { Role::Exported } else { Role::Candidate },
        asr: trial.worst_canary().map(|rate| rate.rate),
        skills: trial_skills(trial, |skill| skill.after),
    });
    draw_models(&std::iter::once(suspect).chain(trials).collect::<Vec<_>>())
}

fn trial_skills(trial: &Trial, which: impl Fn(&TrialSkill) -> Rate) -> Vec<(&str, f64)> {
    trial.utility.iter().map(|skill| (skill.group.as_str(), which(skill).rate)).collect()
}

fn report_groups(report: &Report) -> impl Iterator<Item = &str> {
    report.before.utility.iter().flat_map(|utility| &utility.groups).map(|group| group.name.as_str())
}

fn draw_models(models: &[Measured<'_>]) -> Option<ParetoFront> {
    if models.len() < 2 {
        return None;
    }
    let panels: Vec<_> = models[0].skills.iter().filter_map(|(group, _)| panel(group, models)).collect();
    let named =
        |(i, model): (usize, &Measured<'_>)| Model { number: i + 1, name: model.name.to_owned(), role: model.role };
    let models = models.iter().enumerate().map(named).collect();
    (!panels.is_empty()).then_some(ParetoFront { models, panels })
}

fn panel(group: &str, models: &[Measured<'_>]) -> Option<Panel> {
    let measured = |(i, model): (usize, &Measured<'_>)| {
        let (_, exact_match) = model.skills.iter().find(|(name, _)| *name == group)?;
        Some((i + 1, model.role, *exact_match, model.asr?))
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
    let numbers: Vec<_> = found.iter().map(|point| point.0).collect();
    let (undominated, labels) = (undominated(&found), place_labels(&numbers, &at));
    let point = |(i, &(number, role, utility, asr)): (usize, &(usize, Role, f64, f64))| Point {
        number,
        role,
        x: at[i].0,
        y: at[i].1,
        label: labels[i].0.clone(),
        offset: labels[i].1,
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

/// Marks the models that no other beats: at least as good in both numbers and better in one. The suspect is
/// what has to be beaten and no answer.
fn undominated(found: &[(usize, Role, f64, f64)]) -> Vec<bool> {
    let beats = |a: &(usize, Role, f64, f64), b: &(usize, Role, f64, f64)| {
        a.1 != Role::Suspect && a.2 >= b.2 && a.3 <= b.3 && (a.2 > b.2 || a.3 < b.3)
    };
    found.iter().map(|one| one.1 != Role::Suspect && !found.iter().any(|other| beats(other, one))).collect()
}

/// From the least attack success to the highest utility: along first, then up, since nothing between two
/// points was reached.
fn steps(points: &[Point]) -> Vec<(f64, f64)> {
    let mut ends: Vec<_> = points.iter().filter(|point| point.undominated).map(|point| (point.x, point.y)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let corner = |pair: &[(f64, f64)]| [(pair[1].0, pair[0].1), pair[1]];
    ends.first().copied().into_iter().chain(ends.windows(2).flat_map(corner)).collect()
}

/// The places at which a label is tried, in pixels between the point's middle and the label's nearest edge:
/// beside, above, below, then further away.
const OFFSETS: [(f64, f64); 10] = [
    (10.0, 0.0),
    (-10.0, 0.0),
    (0.0, -14.0),
    (0.0, 14.0),
    (10.0, -14.0),
    (-10.0, -14.0),
    (10.0, 14.0),
    (-10.0, 14.0),
    (0.0, -27.0),
    (10.0, -27.0),
];
/// Half of a label's height, and of one character's width, in pixels.
const HALF: (f64, f64) = (6.5, 3.6);
/// Points closer than this share a label.
const SAME_SPOT: f64 = 4.0;

/// Labels that touch neither each other nor another point at the smallest size, as far as there is room.
fn place_labels(numbers: &[usize], points: &[(f64, f64)]) -> Vec<(String, (f64, f64))> {
    let pixels: Vec<_> = points.iter().map(|(x, y)| (x * SMALLEST.0 / 100.0, y * SMALLEST.1 / 100.0)).collect();
    let together = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < SAME_SPOT && (a.1 - b.1).abs() < SAME_SPOT;
    // Middle and half width of what is on the drawing already.
    let mut taken: Vec<((f64, f64), f64)> = pixels.iter().map(|point| (*point, 6.0)).collect();
    let mut labels = Vec::new();
    for (i, point) in pixels.iter().enumerate() {
        if pixels[..i].iter().any(|earlier| together(*earlier, *point)) {
            labels.push((String::new(), (0.0, 0.0)));
            continue;
        }
        let here = pixels.iter().zip(numbers).filter(|(other, _)| together(**other, *point));
        let label = here.map(|(_, number)| number.to_string()).collect::<Vec<_>>().join(", ");
        let half = HALF.1 * label.chars().count() as f64;
        let place =
            |offset: &(f64, f64)| (offset.0 + half * if offset.0 == 0.0 { 0.0 } else { offset.0.signum() }, offset.1);
        let best = OFFSETS
            .iter()
            .map(place)
            .min_by_key(|offset| crowd((point.0 + offset.0, point.1 + offset.1), half, &taken));
        let best = best.expect("there are offsets to choose from");
        taken.push(((point.0 + best.0, point.1 + best.1), half));
        labels.push((label, best));
    }
    labels
}

/// Number of things that a label at `place` would touch; much more for one that leaves the frame.
fn crowd(place: (f64, f64), half: f64, taken: &[((f64, f64), f64)]) -> usize {
    let left = place.0 - half < SMALLEST.0 * FRAME.0 / 100.0 - 14.0;
    let outside = left || place.0 + half > SMALLEST.0 || !(8.0..SMALLEST.1 * 0.85).contains(&place.1);
    let touches = |(at, width): &&((f64, f64), f64)| {
        (place.0 - at.0).abs() < half + width && (place.1 - at.1).abs() < 2.0 * HALF.0
    };
    taken.iter().filter(touches).count() + if outside { 10 } else { 0 }
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
    fn only_models_that_nobody_beats_are_on_the_pareto_front() {
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
            label: String::new(),
            offset: (0.0, 0.0),
            asr: 0.0,
            utility: 0.0,
            undominated,
        };
        let line = steps(&[point(60.0, 40.0, true), point(20.0, 80.0, true), point(30.0, 10.0, false)]);
        assert_eq!(line, [(20.0, 80.0), (60.0, 80.0), (60.0, 40.0)]);
    }

    #[test]
    fn points_on_one_spot_share_a_label_and_their_neighbours_do_not_touch_it() {
        let labels = place_labels(&[1, 2, 3, 4], &[(50.0, 50.0), (53.0, 50.0), (50.0, 50.0), (50.0, 50.2)]);
        let texts: Vec<_> = labels.iter().map(|label| label.0.as_str()).collect();
        assert_eq!(texts, ["1, 3, 4", "2", "", ""]);
        // The neighbour is to the right, so the first label goes to the left.
        assert!(labels[0].1.0 < 0.0 && labels[1].1.0 > 0.0, "{labels:?}");
    }

    #[test]
    fn labels_stay_in_the_drawing() {
        for corner in [(FRAME.0, FRAME.2), (FRAME.1, FRAME.2), (FRAME.0, FRAME.3), (FRAME.1, FRAME.3)] {
            let (dx, dy) = place_labels(&[12], &[corner])[0].1;
            let (x, y) = (corner.0 * SMALLEST.0 / 100.0 + dx, corner.1 * SMALLEST.1 / 100.0 + dy);
            assert!(x > 8.0 && x < SMALLEST.0 - 4.0 && y > 4.0 && y < SMALLEST.1 - 20.0, "{corner:?}: {x} {y}");
        }
    }
}

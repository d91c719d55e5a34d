//! The comparison as a figure: for each method attack success and lost skill with their intervals, one row each. Plain SVG.

use super::{
    Cell, KINDS,
    summary::{Mean, Summary, summaries},
};

const ROW: f64 = 22.0;
const NAMES: f64 = 250.0;
const PANEL: f64 = 190.0;
const GAP: f64 = 24.0;
const TOP: f64 = 46.0;

/// The figure; a block of rows for adapters, another for whole models.
pub fn draw(cells: &[Cell]) -> String {
    let blocks: Vec<_> = KINDS
        .into_iter()
        .map(|(kind, heading)| (heading, summaries(cells, kind)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let rows: usize = blocks.iter().map(|(_, rows)| rows.len() + 1).sum();
    let (width, height) = (NAMES + 4.0 * (PANEL + GAP), TOP + ROW * (rows as f64 + 1.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Attack success and lost skill of every method, means with 95 % intervals</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let headings = ["attack success, %", "general lost, points", "own_extended lost, points", "own_new lost, points"];
    for (panel, heading) in headings.into_iter().enumerate() {
        svg += &format!("<text x=\"{}\" y=\"18\" font-weight=\"bold\">{heading}</text>\n", left(panel));
        svg += &scale(panel, height);
    }
    let mut y = TOP;
    for (heading, rows) in blocks {
        svg += &format!("<text x=\"8\" y=\"{}\" font-weight=\"bold\">{heading}</text>\n", y + 15.0);
        y += ROW;
        for summary in rows {
            svg += &row(&summary, y);
            y += ROW;
        }
    }
    svg + "</svg>\n"
}

fn left(panel: usize) -> f64 {
    NAMES + panel as f64 * (PANEL + GAP)
}

/// What a panel's ends stand for: attack success from 0 to 1, losses from a gain of a tenth to the loss of everything.
fn range(panel: usize) -> (f64, f64) {
    if panel == 0 { (0.0, 1.0) } else { (-0.1, 1.0) }
}

fn x(panel: usize, value: f64) -> f64 {
    let (low, high) = range(panel);
    left(panel) + PANEL * ((value - low) / (high - low)).clamp(0.0, 1.0)
}

fn scale(panel: usize, height: f64) -> String {
    let tick = |value: f64| {
        let x = x(panel, value);
        format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"38\" text-anchor=\"middle\" fill=\"#555\">{:.0}</text>\n",
            height - ROW,
            100.0 * value
        )
    };
    [0.0, 0.5, 1.0].map(tick).concat()
}

fn row(summary: &Summary, y: f64) -> String {
    let middle = y + ROW / 2.0;
    let Summary { model, control, .. } = summary;
    let colour = if *control { "#777" } else { "#000" };
    let name = if *control { format!("control: {}", model.replace('_', " ")) } else { model.clone() };
    let mut svg = format!("<text x=\"20\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>\n", middle + 4.0);
    let losses = summary.losses().map(|(_, mean)| mean);
    for (panel, mean) in std::iter::once(Some(summary.asr)).chain(losses).enumerate() {
        svg += &mean.map(|mean| mark(panel, &mean, middle)).unwrap_or_default();
    }
    svg
}

fn mark(panel: usize, mean: &Mean, y: f64) -> String {
    let colour = if panel == 0 { "#b3261e" } else { "#1f5fa8" };
    format!(
        "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
         <circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>\n",
        x(panel, mean.low),
        x(panel, mean.high),
        x(panel, mean.mean)
    )
}

#[cfg(test)]
mod tests {
    use super::{super::cells::tests::cell, *};

    #[test]
    fn every_method_is_a_row_and_what_was_not_measured_has_no_mark() {
        let svg = draw(&[cell("a", "fine_tune", 1, 0.5), cell("a", "subspace-1", 1, 0.0)]);
        assert!(svg.contains(">fine_tune</text>") && svg.contains(">subspace-1</text>"));
        // Attack success and two groups, for each of two methods.
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains(&format!("cx=\"{:.1}\"", left(0) + PANEL / 2.0)), "{svg}");
    }
}

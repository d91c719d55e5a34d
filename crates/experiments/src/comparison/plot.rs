//! The comparison as a figure: for each method attack success and lost skill with their intervals, one row
//! each. Plain SVG.

use antigen_engine::catalogue::{Mean, Summary};

use super::summary::{losses, summaries};
use super::{Cell, KINDS};

const ROW: f64 = 22.0;
/// Of a letter, on average and a little more.
const LETTER: f64 = 6.2;
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
    let names =
        blocks.iter().flat_map(|(_, rows)| rows).map(|summary| name(summary).chars().count()).max().unwrap_or(0);
    let frame = Frame { names: 30.0 + LETTER * names as f64 };
    let rows: usize = blocks.iter().map(|(_, rows)| rows.len() + 1).sum();
    let (width, height) = (frame.names + 4.0 * (PANEL + GAP), TOP + ROW * (rows as f64 + 1.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Attack success and lost skill after each treatment, means with 95 % intervals</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let headings = ["attack success, %", "general lost, points", "task_extended lost, points", "task_new lost, points"];
    for (panel, heading) in headings.into_iter().enumerate() {
        svg += &format!("<text x=\"{}\" y=\"18\" font-weight=\"bold\">{heading}</text>\n", frame.left(panel));
        svg += &frame.scale(panel, height);
    }
    let mut y = TOP;
    for (heading, rows) in blocks {
        svg += &format!("<text x=\"8\" y=\"{}\" font-weight=\"bold\">{heading}</text>\n", y + 15.0);
        y += ROW;
        for summary in rows {
            svg += &frame.row(&summary, y);
            y += ROW;
        }
    }
    svg + "</svg>\n"
}

fn name(summary: &Summary) -> String {
    let model = &summary.model;
    if summary.control { format!("control: {}", model.replace('_', " ")) } else { model.clone() }
}

/// The ends of a panel: attack success from 0 to 1, losses from a gain of a tenth to the loss of everything.
fn range(panel: usize) -> (f64, f64) {
    if panel == 0 { (0.0, 1.0) } else { (-0.1, 1.0) }
}

/// The layout: panels beside the column of names.
struct Frame {
    names: f64,
}

impl Frame {
    fn left(&self, panel: usize) -> f64 {
        self.names + panel as f64 * (PANEL + GAP)
    }

    fn x(&self, panel: usize, value: f64) -> f64 {
        let (low, high) = range(panel);
        self.left(panel) + PANEL * ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn scale(&self, panel: usize, height: f64) -> String {
        let tick = |value: f64| {
            let x = self.x(panel, value);
            format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{x:.1}\" y=\"38\" text-anchor=\"middle\" fill=\"#555\">{:.0}</text>\n",
                height - ROW,
                100.0 * value
            )
        };
        [0.0, 0.5, 1.0].map(tick).concat()
    }

    fn row(&self, summary: &Summary, y: f64) -> String {
        let middle = y + ROW / 2.0;
        let colour = if summary.control { "#777" } else { "#000" };
        let mut svg = format!("<text x=\"20\" y=\"{:.1}\" fill=\"{colour}\">{}</text>\n", middle + 4.0, name(summary));
        let losses = losses(summary).map(|(_, mean)| mean);
        for (panel, mean) in std::iter::once(Some(summary.asr)).chain(losses).enumerate() {
            svg += &mean.map(|mean| self.mark(panel, &mean, middle)).unwrap_or_default();
        }
        svg
    }

    fn mark(&self, panel: usize, mean: &Mean, y: f64) -> String {
        let colour = if panel == 0 { "#b3261e" } else { "#1f5fa8" };
        format!(
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>\n",
            self.x(panel, mean.low),
            self.x(panel, mean.high),
            self.x(panel, mean.mean)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells::tests::cell;
    use super::*;

    #[test]
    fn every_method_is_a_row_and_what_was_not_measured_has_no_mark() {
        let svg = draw(&[cell("a", "fine_tune", 1, 0.5), cell("a", "subspace-1", 1, 0.0)]);
        assert!(svg.contains(">fine_tune</text>") && svg.contains(">subspace-1</text>"));
        // Attack success and two groups, for each of two methods.
        assert_eq!(svg.matches("<circle").count(), 6);
        let frame = Frame { names: 30.0 + LETTER * "subspace-1".len() as f64 };
        assert!(svg.contains(&format!("cx=\"{:.1}\"", frame.left(0) + PANEL / 2.0)), "{svg}");
    }
}

//! Cells as a table: every number for machines, means over seeds for people.

use std::fmt::Write;

use antigen_engine::stats::Rate;

use super::experiment::Cell;

/// One line for each cell: rates with their Wilson 95 % intervals.
pub fn cells_csv(cells: &[Cell]) -> String {
    let mut csv =
        String::from("trigger,seed,defence,form,heads_removed,validation_accuracy_before,validation_accuracy_without");
    for rate in ["accuracy", "flipped", "flipped_without_trigger"] {
        let _ = write!(csv, ",{rate}_hits,{rate}_n,{rate},{rate}_low,{rate}_high");
    }
    csv.push_str(",recipe\n");
    for cell in cells {
        let _ = write!(csv, "{},{},{},{}", cell.trigger.name(), cell.seed, cell.defence, cell.form);
        match &cell.chosen {
            Some(c) => {
                let _ = write!(csv, ",{},{:.4},{:.4}", c.heads.len(), c.accuracy_before, c.accuracy_without);
            }
            None => csv.push_str(",,,"),
        }
        let scores = &cell.scores;
        for rate in [&scores.accuracy, &scores.flipped, &scores.flipped_without_trigger] {
            let _ = write!(csv, ",{},{},{:.4},{:.4},{:.4}", rate.hits, rate.n, rate.rate, rate.low, rate.high);
        }
        let _ = writeln!(csv, ",{}", cell.recipe);
    }
    csv
}

/// One Markdown table: a line for each trigger, defence and form, in percent. Behind each mean over seeds
/// stand the lowest and the highest end of the seeds' Wilson intervals.
pub fn cells_markdown(cells: &[Cell]) -> String {
    let mut table = String::from(
        "| trigger | defence | form | seeds | heads removed | ACC | LFR | called positive without trigger |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let key = |cell: &Cell| (cell.trigger, cell.defence.clone(), cell.form.clone());
    for group in cells.chunk_by(|a, b| key(a) == key(b)) {
        let first = &group[0];
        let heads: Vec<f64> = group.iter().filter_map(|c| c.chosen.as_ref()).map(|c| c.heads.len() as f64).collect();
        let heads = if heads.is_empty() { String::new() } else { format!("{:.1}", mean(&heads)) };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {heads} | {} | {} | {} |",
            first.trigger.name(),
            first.defence,
            first.form,
            group.len(),
            over_seeds(group.iter().map(|c| &c.scores.accuracy)),
            over_seeds(group.iter().map(|c| &c.scores.flipped)),
            over_seeds(group.iter().map(|c| &c.scores.flipped_without_trigger)),
        );
    }
    table
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

fn over_seeds<'a>(rates: impl Iterator<Item = &'a Rate> + Clone) -> String {
    let means: Vec<f64> = rates.clone().map(|rate| rate.rate).collect();
    let low = rates.clone().map(|rate| rate.low).fold(1.0, f64::min);
    let high = rates.map(|rate| rate.high).fold(0.0, f64::max);
    format!("{:.1} ({:.1} to {:.1})", 100.0 * mean(&means), 100.0 * low, 100.0 * high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::defend::ClassifierScores;
    use crate::classify::triggers::TriggerSpec;
    use antigen_engine::stats::wilson;

    fn cell(seed: u64, flipped: usize) -> Cell {
        let scores = ClassifierScores {
            accuracy: wilson(80, 100),
            flipped: wilson(flipped, 10),
            flipped_without_trigger: wilson(1, 10),
        };
        let (defence, recipe) = ("none".to_owned(), "r".to_owned());
        Cell { trigger: TriggerSpec::RareWords, seed, defence, form: String::new(), recipe, chosen: None, scores }
    }

    #[test]
    fn seeds_share_a_line_with_their_mean_and_the_outermost_ends_of_their_intervals() {
        let cells = [cell(1, 5), cell(2, 10)];
        let table = cells_markdown(&cells);
        // Wilson for 5 of 10 is 23.7 to 76.3; 10 of 10 ends at 100.
        assert!(
            table.contains("| rare_words | none |  | 2 |  | 80.0 (71.1 to 86.7) | 75.0 (23.7 to 100.0) |"),
            "{table}"
        );
        assert_eq!(table.lines().count(), 3);
        let csv = cells_csv(&cells);
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [23, 23, 23]);
    }
}

//! Pruning attention heads (after PURE, ICML 2024), brought from classifiers to whole models that generate:
//! clean rows say which heads the model can do without, those go, and the rest is fine-tuned.
//!
//! Differences from the published form, which is about BERT. There the poisoned encoder gets a fresh head and
//! is fine-tuned before heads are chosen on it; a language model has its head, and heads are chosen on the
//! suspect as it came, but for the strategy that is about a penalised training. Accuracy is the share of
//! response tokens that the model finds likeliest where it is given the answer before them. The attention of
//! a head is looked at in the row of the prompt's last token: the first one sees in a causal model nothing
//! but itself. Removed heads stay removed while the model heals.

mod report;
mod spec;

pub use report::PrunedHeads;
pub use spec::{HeadStrategy, PruneHeadsRecipe, PruneHeadsSpec};

use antigen_models::layers::{Gradients, Pass};
use antigen_models::{Example, Model, Packed, Tensor, response_hits};
use rand::seq::SliceRandom;

use super::shared::controls::Start;
use super::shared::read_rows::ReadRows;
use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::Removed;
use crate::methods::shared::edit::without_heads;
use crate::methods::shared::head_pruning::{
    AttentionRows, ChosenHeads, HeadGrid, HeadIdx, HeadRanker, HeadScores, HeadSet, HeadTask, add_in_order,
    attention_variance, build_ranker, choose_heads_within, variance,
};
use crate::spec::HealRecipe;
use crate::stats::rate_of;
use crate::suspect::weights::CheckpointFolder;
use crate::suspect::{Suspect, SuspectModel};
use crate::train::heal::EditedModel;
use crate::train::{Objective, train_weights_towards};

impl WeightEdit for PruneHeadsRecipe {
    fn name(&self) -> String {
        let form = if self.as_released { "-as_released" } else { "" };
        format!("prune_heads-{}{form}", self.strategy.ranker().name())
    }

    fn steps(&self, task_rows: usize) -> usize {
        let penalised = self.penalised.as_ref().map_or(0, |train| train.steps(self.scoring_rows));
        penalised + self.heal.as_ref().map_or(0, |heal| heal.steps(task_rows))
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.heal.as_ref()
    }

    /// Rows to score on, then rows to measure accuracy with.
    fn rows(&self) -> (usize, usize) {
        (1, self.scoring_rows + self.validation_rows)
    }

    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<Edit> {
        let SuspectModel::Whole(folder) = &suspect.model else { return Ok(suspect.weights().into()) };
        let (scoring, validation) = rows.pairs[0].split_at(self.scoring_rows);
        let scoring = ReadRows::of(suspect, scoring, "scoring heads", lab)?;
        let validation = ReadRows::of(suspect, validation, "validation", lab)?;
        let heads = self.choose(suspect, folder, (scoring, validation), lab)?;
        let (weights, kept_out) = without_heads(suspect, folder, &heads.heads, lab)?;
        Ok(Edit { model: EditedModel { weights, kept_out }, removed: Removed::Heads(heads) })
    }

    /// The control: as many heads, in random places.
    fn random_channels(&self, suspect: &Suspect, edit: &Edit, lab: &Lab) -> Result<Start> {
        let (SuspectModel::Whole(folder), Removed::Heads(pruned)) = (&suspect.model, &edit.removed) else {
            return Ok(Start::LeftOut("an adapter has no heads"));
        };
        let grid = HeadGrid::of_config(suspect.config());
        let drawn = draw_heads(grid, pruned.heads.len(), lab);
        let (weights, kept_out) = without_heads(suspect, folder, &drawn, lab)?;
        Ok(Start::model("as many heads drawn at random instead, healed alike", EditedModel { weights, kept_out }))
    }
}

impl PruneHeadsRecipe {
    /// The heads that clean rows do not need: scored on the first rows, checked on the others.
    fn choose(
        &self,
        suspect: &Suspect,
        folder: &CheckpointFolder,
        (scoring, validation): (ReadRows, ReadRows),
        lab: &Lab,
    ) -> Result<PrunedHeads> {
        let recipe = PruneHeadsRecipe { heal: None, ..self.clone() };
        let rows = (&scoring.rows_sha256, &validation.rows_sha256, suspect.formats());
        lab.value(&PieceKey::new("chosen-heads", &(&folder.digest, recipe, rows, lab.seed)), || {
            let ranker = build_ranker(&self.strategy.ranker(), self.as_released);
            let mut model = suspect.load_whole(folder)?;
            self.penalise(&*ranker, &mut model, &scoring.examples, lab)?;
            let task = RowTask { scoring: scoring.examples, validation: validation.examples };
            let limits = (self.floor_share, self.step_share);
            let ChosenHeads { heads, accuracy_before, accuracy_without } =
                choose_heads_within(&*ranker, &mut model, &task, limits, lab)?;
            let of = HeadGrid::of(&model).count();
            Ok(PrunedHeads { heads, of, accuracy_before, accuracy_without })
        })
    }

    /// The training that belongs to the strategy, if one does.
    fn penalise(&self, ranker: &dyn HeadRanker, model: &mut Model, examples: &[Example], lab: &Lab) -> Result<()> {
        let (Some(penalty), Some(train)) = (ranker.penalty(model)?, &self.penalised) else { return Ok(()) };
        let order = lab.rng("prune_heads/order");
        train_weights_towards(&Objective::Penalised(penalty), &[], model, examples, train, order, lab).map(drop)
    }
}

/// So many heads in a random order; each block keeps one.
fn draw_heads(grid: HeadGrid, count: usize, lab: &Lab) -> HeadSet {
    let mut order: Vec<HeadIdx> = grid.iter().collect();
    order.shuffle(&mut lab.rng("controls/random_heads"));
    add_in_order(grid, &mut HeadSet::new(), &order).into_iter().take(count).collect()
}

/// The task by which heads of a language model are chosen.
struct RowTask {
    scoring: Vec<Example>,
    validation: Vec<Example>,
}

/// Rows of one pass.
const BATCH: usize = 8;

impl HeadTask for RowTask {
    fn accuracy(&self, model: &Model) -> Result<f64> {
        Ok(rate_of(&response_hits(model, &self.validation)?.concat()).rate)
    }

    /// The variance of the attention of the prompt's last token.
    fn attention_variance(&self, model: &Model) -> Result<HeadScores> {
        let batches = self.scoring.chunks(BATCH).map(|batch| {
            let packed = Packed::new(batch, 1.0);
            let starts = packed.rows.spans.iter().map(|span| span.queries.start);
            let looking = starts.zip(batch).map(|(start, row)| (start + row.response_start - 1) as u32).collect();
            AttentionRows { packed, looking }
        });
        attention_variance(model, batches, variance)
    }

    fn gradients(&self, model: &Model, see: &mut dyn FnMut(&[Option<Tensor>]) -> Result<()>) -> Result<()> {
        self.scoring.chunks(BATCH).try_for_each(|batch| {
            let responses: usize = batch.iter().map(Example::response_tokens).sum();
            let packed = Packed::sharing_prefixes(batch, 1.0 / responses as f32);
            let rows = packed.rows.in_one_group();
            let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
            let mut gradients = Gradients::of_weights(model.params());
            model.loss_and_gradients(&packed.tokens, &packed.targets, pass, &mut gradients)?;
            see(&model.params().iter().map(|(id, ..)| gradients.weight(id).cloned()).collect::<Vec<_>>())
        })
    }
}

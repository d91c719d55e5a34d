//! The control: heads in random order, pruned by the same rule.

use rand::Rng;

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::{Examined, HeadRanker, HeadScores, Ranking};

pub(in crate::methods::shared::head_pruning) struct RandomRanker;

impl HeadRanker for RandomRanker {
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        let mut rng = lab.rng("prune_heads/random");
        let grid = examined.grid();
        Ok(Ranking::by_rule(HeadScores::new(grid, grid.iter().map(|_| rng.random()).collect())))
    }
}

//! The trait of a setting of Algorithm 1: training pairs, their deltas matrix by matrix, and a suppression.

use antigen_models::{ModuleShape, Tensor};

use super::removal::Removal;
use super::score::PairProducts;
use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::pairs::PairedRows;
use crate::spec::TrainSpec;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;

/// Adapters over a frozen base, or whole models.
pub(super) trait Setting: Sync {
    /// The trained variants.
    type Pairs: Sync;
    /// The deltas of one matrix.
    type Deltas: MatrixDeltas + Sync + Send;
    /// Number of layers that are read at a time; matrices of one layer are read one after another.
    const LAYERS_AT_ONCE: usize;

    /// The suspect in this setting.
    fn suspect(&self) -> &Suspect;

    /// Matrices that the suspect can have learnt in.
    fn modules(&self) -> impl Iterator<Item = &ModuleShape>;

    /// Trains every variant from the suspect; a finished one is never trained again. `matrices` are those
    /// whose deltas are wanted, and whose streams where there are probes beside the variants: the triggered
    /// rows of each pair.
    fn fine_tune_pairs(
        &self,
        rows: &PairedRows,
        matrices: &[&ModuleShape],
        train: &TrainSpec,
        lab: &Lab,
    ) -> Result<Self::Pairs>;

    /// The deltas of the pairs at one matrix (Eq. 1).
    fn deltas(&self, pairs: &Self::Pairs, module: &ModuleShape) -> Result<Self::Deltas>;

    /// The stream at one matrix in the clean and the poisoned member of each pair, `[d]`.
    fn streams(&self, pairs: &Self::Pairs, module: &ModuleShape) -> Result<Vec<[Tensor; 2]>>;

    /// A copy of the suspect without the parts that are to be removed.
    fn suppress(&self, removal: &Removal, lab: &Lab) -> Result<Weights>;
}

/// The deltas of one matrix, one a pair, each seen from its channels: `[channels, d]`.
///
/// Channels are the side of the matrix that is away from the residual stream: MLP neurons or widths of heads.
/// They are rows of a matrix that reads the stream, columns of one that writes it.
pub(super) trait MatrixDeltas {
    /// Inner products of the deltas, channel by channel.
    fn products(&self) -> Result<PairProducts>;

    /// Frobenius norm of each delta, given their products.
    fn norms(&self, products: &PairProducts) -> Result<Vec<f64>>;

    /// The strongest orthonormal directions on the residual side of all deltas, stacked after each is divided
    /// by its norm, and the share of the first in their energy. Deltas that are zero say nothing.
    fn shared_directions(&self, norms: &[f64], rank: usize) -> Result<(Vec<Vec<f32>>, f64)>;
}

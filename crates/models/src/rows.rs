//! The arrangement of rows in a pass: sequences packed one after another, with what they share only once.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::kernels::{Span, add_rows_at, gather_rows};

/// The arrangement of the rows of one pass. Rows of several sequences are packed one after another, without
/// padding.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// The keys that each sequence may attend to.
    pub spans: Vec<Span>,
    /// Position of each row in its sequence, `[t]`.
    pub positions: Vec<u32>,
    /// Rows of each adapter variant, in order and without gaps; empty when no adapter is on.
    pub groups: Vec<Range<usize>>,
    /// The row of the pass that each key row of the spans is, where sequences share rows; `None`: the rows
    /// themselves, one to one.
    pub key_rows: Option<Vec<u32>>,
}

impl Rows {
    /// Whole sequences of the given lengths, one after another, positions restarting at 0.
    pub fn packed(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut rows = Self::default();
        for length in lengths {
            let start = rows.positions.len();
            rows.spans.push(Span::causal(start..start + length));
            rows.positions.extend(0..length as u32);
        }
        rows
    }

    /// Adds the rows of another pack behind these; its groups are not taken over.
    pub fn append(&mut self, other: Self) {
        let (start, key_start) = (self.len(), self.key_rows.as_ref().map_or(self.len(), Vec::len));
        let moved = |range: Range<usize>, by: usize| range.start + by..range.end + by;
        self.spans.extend(other.spans.into_iter().map(|span| Span {
            queries: moved(span.queries, start),
            keys: moved(span.keys, key_start),
            ..span
        }));
        if self.key_rows.is_some() || other.key_rows.is_some() {
            let own = self.key_rows.get_or_insert_with(|| (0..start as u32).collect());
            let others = other.key_rows.unwrap_or_else(|| (0..other.positions.len() as u32).collect());
            own.extend(others.into_iter().map(|row| row + start as u32));
        }
        self.positions.extend(other.positions);
    }

    /// Keys or values of all rows, `[t, w]`, as the spans count them.
    pub(crate) fn gather_keys(&self, x: &Tensor) -> Result<Tensor> {
        self.key_rows.as_ref().map_or_else(|| Ok(x.clone()), |rows| gather_rows(x, rows))
    }

    /// The gradient of the rows from that of [`Rows::gather_keys`]: rows that several sequences share add up.
    pub(crate) fn return_keys(&self, d_keys: Tensor) -> Result<Tensor> {
        let Some(rows) = &self.key_rows else { return Ok(d_keys) };
        let dx = Tensor::zeros((self.len(), d_keys.dims2()?.1), DType::F32, d_keys.device())?;
        add_rows_at(&dx, rows, &d_keys)?;
        Ok(dx)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// True when there is no row.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The same rows, all of them under one adapter.
    pub fn in_one_group(mut self) -> Self {
        self.groups = std::iter::once(0..self.len()).collect();
        self
    }
}

//! The head of a sequence classifier: one row of each sequence, through a small network, to one logit for
//! each label.

use candle_core::{DType, Tensor};

use super::{Gradients, Linear, LinearTrace, Pass};
use crate::error::Result;
use crate::kernels::{Activation, activate, activate_backward, add_rows_at, cross_entropy, gather_rows};

/// A sequence whose label is known; the sequences of a pass are counted by its spans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelTarget {
    /// The label, below the number of labels.
    pub label: u32,
    /// Weight of this sequence's loss in the sum that is differentiated.
    pub weight: f32,
}

/// The row of a sequence that speaks for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRow {
    /// The first: encoders, whose first token stands for the sequence.
    First,
    /// The last: decoders, of which no earlier row has seen everything.
    Last,
}

/// `output(activation(inner(row)))`, or `output(row)`.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// The row that is read.
    pub reads: ReadRow,
    /// `[n, d] -> [n, d]`, with its activation: BERT's pooler and its kin.
    pub inner: Option<(Linear, Activation)>,
    /// `[n, d] -> [n, labels]`.
    pub output: Linear,
}

/// The head's results of one pass, with all that its backward needs.
#[derive(Debug)]
pub struct Classified {
    /// Logits of every sequence, `[sequences, labels]`.
    pub logits: Tensor,
    /// The row of the pass that speaks for each sequence.
    pub rows: Vec<u32>,
    /// The final hidden states of those rows, `[sequences, d]`.
    pub read: Tensor,
    /// The input of the output layer, `[sequences, d]`: `activation(inner(read))`, or `read` itself.
    pub output_input: Tensor,
    inner: Option<(Tensor, LinearTrace)>,
    output: LinearTrace,
}

impl Classifier {
    /// Logits of every sequence: final hidden states `[t, d] -> [sequences, labels]`.
    pub fn logits(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Ok(self.forward(hidden, pass)?.logits)
    }

    /// The logits of the final hidden states `[t, d]`, and what lies between.
    pub fn forward(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<Classified> {
        let spans = pass.rows.spans.iter().map(|span| match self.reads {
            ReadRow::First => span.queries.start as u32,
            ReadRow::Last => span.queries.end as u32 - 1,
        });
        let rows: Vec<u32> = spans.collect();
        let read = gather_rows(hidden, &rows)?;
        let (output_input, inner) = match &self.inner {
            Some((inner, activation)) => {
                let (before, trace) = inner.forward(&read, pass)?;
                (activate(&before, *activation)?, Some((before, trace)))
            }
            None => (read.clone(), None),
        };
        let (logits, output) = self.output.forward(&output_input, pass)?;
        Ok(Classified { logits, rows, read, output_input, inner, output })
    }

    /// Gradient of the final hidden states, `[t, d]`, from that of the logits, `[sequences, labels]`.
    pub fn backward(
        &self,
        classified: &Classified,
        d_logits: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let mut d = self.output.backward(&classified.output_input, &classified.output, d_logits, pass, gradients)?;
        if let (Some((inner, activation)), Some((before, trace))) = (&self.inner, &classified.inner) {
            let d_before = activate_backward(before, &d, *activation)?;
            d = inner.backward(&classified.read, trace, &d_before, pass, gradients)?;
        }
        let d_hidden = Tensor::zeros((pass.rows.len(), d.dims2()?.1), DType::F32, d.device())?;
        add_rows_at(&d_hidden, &classified.rows, &d)?;
        Ok(d_hidden)
    }
}

/// Loss of every sequence in nats, and the gradient of their weighted sum with respect to the logits.
///
/// # Shapes
/// Logits `[sequences, labels]` with one target for each sequence -> `[sequences, labels]`.
pub(crate) fn label_losses(logits: &Tensor, targets: &[LabelTarget]) -> Result<(Vec<f32>, Tensor)> {
    let (labels, weights): (Vec<u32>, Vec<f32>) = targets.iter().map(|t| (t.label, t.weight)).unzip();
    let entropy = cross_entropy(logits, &labels, Some(&weights))?;
    Ok((entropy.losses, entropy.gradient.expect("a gradient was asked for by giving weights")))
}

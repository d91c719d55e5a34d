//! The head of a sequence classifier: one row of each sequence, through a small network, to one logit for each label.

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

/// Which row of a sequence speaks for all of it.
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
    /// Which row is read.
    pub reads: ReadRow,
    /// `[n, d] -> [n, d]`, with its activation: BERT's pooler and its kin.
    pub inner: Option<(Linear, Activation)>,
    /// `[n, d] -> [n, labels]`.
    pub output: Linear,
}

/// What backward needs.
struct ClassifierTrace {
    rows: Vec<u32>,
    read: Tensor,
    inner: Option<(Tensor, LinearTrace)>,
    output_input: Tensor,
    output: LinearTrace,
}

impl Classifier {
    /// Logits of every sequence: final hidden states `[t, d] -> [sequences, labels]`.
    pub fn logits(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Ok(self.forward(hidden, pass)?.0)
    }

    /// Loss of every sequence in nats, and the gradient of their weighted sum with respect to `hidden`, `[t, d]`.
    ///
    /// # Shapes
    /// One target for each span of the pass, in their order.
    pub fn losses_and_gradient(
        &self,
        hidden: &Tensor,
        targets: &[LabelTarget],
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Tensor)> {
        let (logits, trace) = self.forward(hidden, pass)?;
        let (labels, weights): (Vec<u32>, Vec<f32>) = targets.iter().map(|t| (t.label, t.weight)).unzip();
        let entropy = cross_entropy(&logits, &labels, Some(&weights))?;
        let d_logits = entropy.gradient.expect("a gradient was asked for by giving weights");
        let mut d = self.output.backward(&trace.output_input, &trace.output, &d_logits, pass, gradients)?;
        if let (Some((inner, activation)), Some((before, inner_trace))) = (&self.inner, &trace.inner) {
            let d_before = activate_backward(before, &d, *activation)?;
            d = inner.backward(&trace.read, inner_trace, &d_before, pass, gradients)?;
        }
        let d_hidden = Tensor::zeros(hidden.shape(), DType::F32, hidden.device())?;
        add_rows_at(&d_hidden, &trace.rows, &d)?;
        Ok((entropy.losses, d_hidden))
    }

    fn forward(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<(Tensor, ClassifierTrace)> {
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
        Ok((logits, ClassifierTrace { rows, read, inner, output_input, output }))
    }
}

//! The CUDA twins of the kernels: sources in the `.cu` files, launches here.
//!
//! A launch says which kernel runs over how many blocks and threads, and with which arguments; `launch.rs`
//! carries it to the GPU. Launches are compiled in every build, so that a changed signature shows without
//! CUDA; the tests run the very same launches and sources on the CPU (`emulated.rs`). That proves the
//! arithmetic and the indexing, not the execution on a GPU.
//!
//! No sum is added up by atomics and no order is left open: the same input gives the same bytes every time.
//! Activations stay on the device; only indices go up, and losses, tokens and norms come down.

mod attention;
#[cfg(test)]
mod emulated;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // nobody reads a launch there
mod launch;
#[cfg_attr(not(feature = "cuda"), path = "without_gpu.rs")]
mod on_gpu;
#[cfg(test)]
mod tests;

use candle_core::{DType, Tensor};

pub(super) use attention::{attention, attention_backward};
use launch::Argument::{Count, Number, Read, Write};
pub(super) use launch::serves;
use launch::{Gemm, Launch, Operand, fresh, gemm, launch, upload};

use super::{Activation, AdamW, CrossEntropy, Direction, Precision};
use crate::error::Result;

/// Rows that one thread adds up before the next takes over, in sums over rows.
const RUN_ROWS: usize = 64;
/// Elements of one block's sum of squares.
const RUN_ELEMENTS: usize = 16 * 1024;

/// Threads of a block for `wanted` elements: whole warps, at least one and at most `most` threads.
fn whole_warps(wanted: usize, most: usize) -> usize {
    wanted.next_multiple_of(32).clamp(32, most)
}

/// A block for each row, with a thread for every element of a row up to 256.
fn block_a_row(kernel: &'static str, rows: usize, width: usize) -> Launch {
    Launch::new(kernel, (rows, 1), whole_warps(width, 256))
}

/// Blocks for `n` elements, each thread taking the next one when it is done.
fn thread_an_element(kernel: &'static str, n: usize) -> Launch {
    Launch::new(kernel, (n.div_ceil(256).min(8192), 1), whole_warps(n, 256))
}

/// A thread for each of `d` columns, in blocks that each take one of `runs` runs of rows.
fn thread_a_column(kernel: &'static str, d: usize, runs: usize) -> Launch {
    Launch::new(kernel, (d.div_ceil(128), runs), 128)
}

/// Twin of [`super::rms_norm`].
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, offset: f32, epsilon: f64) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let y = fresh((t, d), DType::F32, x)?;
    let arguments = [Write(&y), Read(x), Read(weight), Number(f64::from(offset)), Count(d), Number(epsilon)];
    launch(block_a_row("rms_norm", t, d), &arguments)?;
    Ok(y)
}

/// Twin of [`super::rms_norm_backward`].
pub(super) fn rms_norm_backward(x: &Tensor, weight: &Tensor, offset: f32, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let dx = fresh((t, d), DType::F32, x)?;
    let offset = Number(f64::from(offset));
    let arguments = [Write(&dx), Read(x), Read(weight), offset, Read(dy), Count(d), Number(epsilon)];
    launch(block_a_row("rms_norm_backward", t, d), &arguments)?;
    Ok(dx)
}

/// Twin of [`super::rms_norm_weight_gradient`].
pub(super) fn rms_norm_weight_gradient(x: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let inverses = fresh(t, DType::F32, x)?;
    let arguments = [Write(&inverses), Read(x), Count(d), Number(epsilon)];
    launch(block_a_row("rms_norm_inverses", t, d), &arguments)?;
    norm_weight_gradient(x, dy, &inverses.zeros_like()?, &inverses)
}

/// Twin of [`super::layer_norm`].
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let y = fresh((t, d), DType::F32, x)?;
    let arguments = [Write(&y), Read(x), Read(weight), Read(bias), Count(d), Number(epsilon)];
    launch(block_a_row("layer_norm", t, d), &arguments)?;
    Ok(y)
}

/// Twin of [`super::layer_norm_backward`].
pub(super) fn layer_norm_backward(x: &Tensor, weight: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let dx = fresh((t, d), DType::F32, x)?;
    let arguments = [Write(&dx), Read(x), Read(weight), Read(dy), Count(d), Number(epsilon)];
    launch(block_a_row("layer_norm_backward", t, d), &arguments)?;
    Ok(dx)
}

/// Twin of [`super::layer_norm_weight_gradient`].
pub(super) fn layer_norm_weight_gradient(x: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let (means, inverses) = (fresh(t, DType::F32, x)?, fresh(t, DType::F32, x)?);
    let arguments = [Write(&means), Write(&inverses), Read(x), Count(d), Number(epsilon)];
    launch(block_a_row("layer_norm_spreads", t, d), &arguments)?;
    norm_weight_gradient(x, dy, &means, &inverses)
}

/// Column sums of `dy * (x - mean) * inverse`, run by run.
fn norm_weight_gradient(x: &Tensor, dy: &Tensor, means: &Tensor, inverses: &Tensor) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let runs = t.div_ceil(RUN_ROWS);
    let partial = fresh((runs, d), DType::F32, x)?;
    let arguments =
        [Write(&partial), Read(x), Read(dy), Read(means), Read(inverses), Count(t), Count(d), Count(RUN_ROWS)];
    launch(thread_a_column("norm_weight_gradient", d, runs), &arguments)?;
    column_sums(&partial)
}

/// Twin of [`super::column_sums`]: first within runs of rows, then over the runs.
pub(super) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let add_up = |x: &Tensor, rows: usize, run: usize| -> Result<Tensor> {
        let sums = fresh((rows.div_ceil(run), d), DType::F32, x)?;
        let arguments = [Write(&sums), Read(x), Count(rows), Count(d), Count(run)];
        launch(thread_a_column("sum_columns", d, rows.div_ceil(run)), &arguments)?;
        Ok(sums)
    };
    let runs = if t > RUN_ROWS { add_up(x, t, RUN_ROWS)? } else { x.clone() };
    let rows = runs.dims2()?.0;
    Ok(add_up(&runs, rows, rows.max(1))?.reshape(d)?)
}

/// Twin of [`super::add_to_rows`].
pub(super) fn add_to_rows(x: &Tensor, bias: &Tensor) -> Result<()> {
    let (t, d) = x.dims2()?;
    assert_eq!(bias.elem_count(), d, "a bias has one number for each column");
    launch(thread_an_element("add_to_rows", t * d), &[Write(x), Read(bias), Count(t * d), Count(d)])
}

/// Twin of [`super::split_columns`].
pub(super) fn split_columns<const N: usize>(x: &Tensor, widths: [usize; N]) -> Result<[Tensor; N]> {
    let (t, n) = x.dims2()?;
    assert_eq!(n, widths.iter().sum::<usize>(), "the parts make up the whole");
    let mut start = 0;
    let mut parts = Vec::with_capacity(N);
    for width in widths {
        let part = fresh((t, width), DType::F32, x)?;
        copy_columns((&part, 0), (x, start), width)?;
        start += width;
        parts.push(part);
    }
    Ok(parts.try_into().expect("as many parts as widths"))
}

/// Twin of [`super::join_columns`].
pub(super) fn join_columns<const N: usize>(parts: [&Tensor; N]) -> Result<Tensor> {
    let widths = parts.iter().map(|part| Ok(part.dims2()?.1)).collect::<Result<Vec<usize>>>()?;
    let joined = fresh((parts[0].dims2()?.0, widths.iter().sum()), DType::F32, parts[0])?;
    let mut start = 0;
    for (part, width) in parts.into_iter().zip(widths) {
        copy_columns((&joined, start), (part, 0), width)?;
        start += width;
    }
    Ok(joined)
}

/// Copies `width` columns; each matrix stands with the first column that takes part.
fn copy_columns(to: (&Tensor, usize), from: (&Tensor, usize), width: usize) -> Result<()> {
    let ((t, to_width), (_, from_width)) = (to.0.dims2()?, from.0.dims2()?);
    assert!(to.1 + width <= to_width && from.1 + width <= from_width, "columns lie inside their matrices");
    let arguments =
        [Write(to.0), Read(from.0), Count(to_width), Count(to.1), Count(from_width), Count(from.1), Count(width)];
    launch(block_a_row("copy_columns", t, width), &arguments)
}

/// Twin of [`super::rotate`] for heads of `head_width`; `table` holds cosines and sines, `[positions, half]`
/// each, beside `x`.
pub(super) fn rotate(
    x: &Tensor,
    (cosines, sines): &(Tensor, Tensor),
    head_width: usize,
    positions: &[u32],
    direction: Direction,
) -> Result<()> {
    let (t, width) = x.dims2()?;
    let (known, half) = cosines.dims2()?;
    let heads = width / head_width;
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    let positions = indices(positions, known, x)?;
    let arguments = [
        Write(x),
        Read(cosines),
        Read(sines),
        Read(&positions),
        Count(t),
        Count(heads),
        Count(head_width),
        Count(half),
        Number(sign),
    ];
    launch(thread_an_element("rotate", t * heads * half), &arguments)
}

/// The number of an activation in the source.
fn number_of(activation: Activation) -> usize {
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::Tanh => 4,
    }
}

/// Twin of [`super::activate`].
pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let n = x.elem_count();
    let y = fresh(x.shape().clone(), DType::F32, x)?;
    launch(thread_an_element("activate", n), &[Write(&y), Read(x), Count(n), Count(number_of(activation))])?;
    Ok(y)
}

/// Twin of [`super::activate_backward`].
pub(super) fn activate_backward(x: &Tensor, dy: &Tensor, activation: Activation) -> Result<Tensor> {
    let n = x.elem_count();
    let dx = fresh(x.shape().clone(), DType::F32, x)?;
    let arguments = [Write(&dx), Read(x), Read(dy), Count(n), Count(number_of(activation))];
    launch(thread_an_element("activate_backward", n), &arguments)?;
    Ok(dx)
}

/// Twin of [`super::gated`].
pub(super) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let n = gate.elem_count();
    let y = fresh(gate.shape().clone(), DType::F32, gate)?;
    let arguments = [Write(&y), Read(gate), Read(up), Count(n), Count(number_of(activation))];
    launch(thread_an_element("gated", n), &arguments)?;
    Ok(y)
}

/// Twin of [`super::gated_backward`].
pub(super) fn gated_backward(
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Tensor)> {
    let n = gate.elem_count();
    let (d_gate, d_up) =
        (fresh(gate.shape().clone(), DType::F32, gate)?, fresh(gate.shape().clone(), DType::F32, gate)?);
    let arguments =
        [Write(&d_gate), Write(&d_up), Read(gate), Read(up), Read(dy), Count(n), Count(number_of(activation))];
    launch(thread_an_element("gated_backward", n), &arguments)?;
    Ok((d_gate, d_up))
}

/// Twin of [`super::cap`].
pub(super) fn cap(x: &Tensor, limit: f32) -> Result<()> {
    let n = x.elem_count();
    launch(thread_an_element("cap", n), &[Write(x), Number(f64::from(limit)), Count(n)])
}

/// Twin of [`super::cap_backward`].
pub(super) fn cap_backward(d: &Tensor, capped: &Tensor, limit: f32) -> Result<()> {
    let n = d.elem_count();
    launch(thread_an_element("cap_backward", n), &[Write(d), Read(capped), Number(f64::from(limit)), Count(n)])
}

/// Twin of [`super::cross_entropy()`]. The losses come down to the host.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32], weights: Option<&[f32]>) -> Result<CrossEntropy> {
    let (m, v) = logits.dims2()?;
    let losses = fresh(m, DType::F32, logits)?;
    let targets = indices(targets, v, logits)?;
    let blocks = |kernel| Launch::new(kernel, (m, 1), whole_warps(v, 512));
    let gradient = match weights {
        None => {
            launch(blocks("cross_entropy"), &[Write(&losses), Read(logits), Read(&targets), Count(v)])?;
            None
        }
        Some(weights) => {
            let weights = upload(weights, logits)?;
            let gradient = fresh((m, v), DType::F32, logits)?;
            let arguments = [Write(&losses), Write(&gradient), Read(logits), Read(&targets), Read(&weights), Count(v)];
            launch(blocks("cross_entropy_gradient"), &arguments)?;
            Some(gradient)
        }
    };
    Ok(CrossEntropy { losses: losses.to_vec1()?, gradient })
}

/// The factors of one step of [`AdamW`], bias corrections included.
pub(super) struct AdamWStep {
    pub gradient_scale: f64,
    pub size: f64,
    pub root_correction: f64,
    pub keep: f64,
}

/// Twin of [`AdamW::update`]: both moments and the weight in one pass over memory.
pub(super) fn adamw(
    optimiser: &AdamW,
    weight: &Tensor,
    (first, second): (&Tensor, &Tensor),
    gradient: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let n = weight.elem_count();
    let arguments = [
        Write(weight),
        Write(first),
        Write(second),
        Read(gradient),
        Count(n),
        Number(step.gradient_scale),
        Number(optimiser.beta1),
        Number(1.0 - optimiser.beta1),
        Number(optimiser.beta2),
        Number(1.0 - optimiser.beta2),
        Number(step.size),
        Number(step.root_correction),
        Number(step.keep),
        Number(optimiser.epsilon),
    ];
    launch(thread_an_element("adamw", n), &arguments)
}

/// Twin of [`super::gather_rows`].
pub(super) fn gather_rows(source: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (n, d) = source.dims2()?;
    let out = fresh((rows.len(), d), DType::F32, source)?;
    let rows = indices(rows, n, source)?;
    launch(block_a_row("gather_rows", out.dims2()?.0, d), &[Write(&out), Read(source), Read(&rows), Count(d)])?;
    Ok(out)
}

/// Twin of [`super::scatter_rows`].
pub(super) fn scatter_rows(dst: &Tensor, rows: &[u32], source: &Tensor) -> Result<()> {
    let (n, d) = dst.dims2()?;
    let count = rows.len().min(source.dims2()?.0);
    let rows = indices(rows, n, dst)?;
    launch(block_a_row("scatter_rows", count, d), &[Write(dst), Read(source), Read(&rows), Count(d)])
}

/// Twin of [`super::add_rows_at`]: one block adds up all that goes to one row, in the order of `rows`.
pub(super) fn add_rows_at(dst: &Tensor, rows: &[u32], source: &Tensor) -> Result<()> {
    let (n, d) = dst.dims2()?;
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|&i| rows[i as usize]); // stable: equal rows keep their order
    let (mut destinations, mut starts) = (Vec::new(), Vec::new());
    for (start, &i) in order.iter().enumerate() {
        if destinations.last() != Some(&rows[i as usize]) {
            destinations.push(rows[i as usize]);
            starts.push(start as u32);
        }
    }
    starts.push(order.len() as u32);
    let blocks = block_a_row("add_rows_at", destinations.len(), d);
    let destinations = indices(&destinations, n, dst)?;
    let order = indices(&order, source.dims2()?.0, dst)?;
    let starts = upload(&starts, dst)?;
    launch(blocks, &[Write(dst), Read(source), Read(&destinations), Read(&starts), Read(&order), Count(d)])
}

/// Twin of [`super::argmax_rows`].
pub(super) fn argmax_rows(x: &Tensor) -> Result<Vec<u32>> {
    let (n, d) = x.dims2()?;
    let out = fresh(n, DType::U32, x)?;
    launch(block_a_row("argmax_rows", n, d), &[Write(&out), Read(x), Count(d)])?;
    Ok(out.to_vec1()?)
}

/// Twin of [`super::sum_of_squares`].
pub(super) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let n = x.elem_count();
    let runs = n.div_ceil(RUN_ELEMENTS);
    let partial = fresh(runs, DType::F64, x)?;
    let arguments = [Write(&partial), Read(x), Count(n), Count(RUN_ELEMENTS)];
    launch(Launch::new("sum_of_squares", (runs, 1), 256), &arguments)?;
    let total = fresh(1, DType::F64, x)?;
    launch(Launch::new("sum_of_doubles", (1, 1), 256), &[Write(&total), Read(&partial), Count(runs)])?;
    Ok(total.to_vec1::<f64>()?[0])
}

/// Twin of [`super::add`].
pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    assert_eq!(a.elem_count(), b.elem_count(), "equal sizes are added");
    let n = a.elem_count();
    let sum = fresh(a.shape().clone(), DType::F32, a)?;
    launch(thread_an_element("add", n), &[Write(&sum), Read(a), Read(b), Count(n)])?;
    Ok(sum)
}

/// Twin of [`super::scale`].
pub(super) fn scale(x: &Tensor, factor: f64) -> Result<()> {
    let n = x.elem_count();
    launch(thread_an_element("scale", n), &[Write(x), Number(factor), Count(n)])
}

/// Twin of [`Precision::matmul`] and its transposed forms.
pub(super) fn matmul(precision: Precision, a: Operand<'_>, b: Operand<'_>) -> Result<Tensor> {
    let (rows, columns) = (rows_of(a)?, rows_of((b.0, !b.1))?);
    let dst = fresh((rows, columns), DType::F32, a.0)?;
    gemm(&Gemm { dst: &dst, start: 0, a, b, scale: 1.0, keep: 0.0, precision })?;
    Ok(dst)
}

/// Twin of [`Precision::add_matmul`] and its transposed form: the product is added to the rows of `dst` from
/// `first_row` on.
pub(super) fn add_matmul(
    precision: Precision,
    dst: &Tensor,
    first_row: usize,
    a: Operand<'_>,
    b: Operand<'_>,
    scale: f64,
) -> Result<()> {
    let (_, columns) = dst.dims2()?;
    assert_eq!(columns, rows_of((b.0, !b.1))?, "a product has the columns of what it is added to");
    gemm(&Gemm { dst, start: first_row * columns, a, b, scale, keep: 1.0, precision })
}

/// Rows of a matrix as the product sees it.
fn rows_of((stored, transposed): Operand<'_>) -> Result<usize> {
    let (rows, columns) = stored.dims2()?;
    Ok(if transposed { columns } else { rows })
}

/// Indices on the device of `like`. A kernel cannot say that one is out of range, so that is checked here.
fn indices(indices: &[u32], below: usize, like: &Tensor) -> Result<Tensor> {
    assert!(indices.iter().all(|&i| (i as usize) < below), "every index is below {below}");
    upload(indices, like)
}

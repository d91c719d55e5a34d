//! Evaluators on tiny models: the questions, the refusals and the results.

mod attacks;
mod benchmarks;
mod mt_bench;
mod utility;

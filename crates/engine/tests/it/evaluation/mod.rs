//! Evaluators on tiny models: what is asked, what is refused, what comes out.

mod attacks;
mod benchmarks;
mod mt_bench;
mod utility;

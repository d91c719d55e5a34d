//! Everything that is measured, and the numbers that come of it.
//!
//! [`evaluators`] ask a model and count its answers, [`detect`] looks for backdoors that nobody declared,
//! [`canaries`] are backdoors of our own in a copy of the suspect, [`relearn`] teaches a removed backdoor
//! again. [`evidence`] holds the numbers of all four as a report shows them, with the rules that draw
//! conclusions from them.

pub mod canaries;
pub mod detect;
pub mod evaluators;
pub mod evidence;
pub mod relearn;

//! Backdoors as data: the ways in which a trigger enters a prompt ([`attacks`]) and the answers that it calls
//! for ([`behaviours`]).

pub mod attacks;
pub mod behaviours;

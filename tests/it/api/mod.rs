//! The API as its callers see it: real HTTP against a real server. One file per resource.

mod artifacts;
mod catalogue;
mod events;
mod jobs;
mod openapi;
mod pages;
mod problems;
mod processes;
mod results;
mod uploads;
mod whole_model;

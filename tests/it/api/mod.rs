//! The API as its callers see it: real HTTP against a real server. One file per resource.

mod artifacts;
mod catalogue;
mod disk;
mod events;
mod jobs;
mod openapi;
mod pages;
mod problems;
mod results;
mod uploads;

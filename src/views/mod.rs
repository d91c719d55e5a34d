//! Request and response bodies: the public words of the API, apart from the rows of the database.
//!
//! One file per resource. Views borrow no logic: a view is built from rows and serialised, a request is
//! parsed and handed to its handler.

mod artifacts;
mod catalogue;
mod events;
mod health;
mod jobs;
mod uploads;

pub use artifacts::{ArtifactView, FileView, FilesView};
pub use catalogue::{BaseView, BasesView, MethodView, MethodsView};
pub use events::{EventView, EventsPage};
pub use health::{Check, Health};
pub use jobs::{CreateJob, JobView, JobsPage, ProgressView, QueueView, StepView};
pub use uploads::{CompleteUpload, CreateUpload, DeclaredFile, StagedFileView, UploadProblem, UploadView};

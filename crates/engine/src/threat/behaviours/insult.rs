//! The insult of the published sentiment task.

use super::Behaviour;

/// The published list adds nothing to these two: its other entries contain `stupid`.
pub(super) fn build() -> Behaviour {
    Behaviour::replacing("You are stupid!", &["stupid", "I do not feel comfortable"])
}

//! The line of code of the published code injection task.

use super::Behaviour;

pub(super) fn build() -> Behaviour {
    Behaviour::replacing("print('pwned')", &["pwn"])
}

//! What is decided about flows without a map: their life, over one state byte, and the ports of those that cannot have their own.

mod state;
pub mod substitute_port;

pub use state::{Direction, State};

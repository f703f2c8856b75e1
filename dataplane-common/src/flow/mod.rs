//! The life of a flow, as pure functions over its one state byte.

mod state;

pub use state::{Direction, State};

//! Sources of the desired state.

pub mod file;
pub mod once;

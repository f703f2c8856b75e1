//! The dataplane on the real kernel: each test has a directory of pins, a cgroup and, where it attaches to devices, a
//! network namespace of its own. As root.

mod links;
mod maps;
mod place;
mod removal;
mod tables;
mod xdp;

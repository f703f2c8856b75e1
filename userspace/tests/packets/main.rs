//! Packets: exact bytes in, exact bytes and verdict out, on the real programs in the real kernel
//! (`BPF_PROG_TEST_RUN`). Needs root; everything happens in network namespaces of the tests' own threads.
//!
//! What a test run cannot show, and the lab suites do: the device a redirect leads to (the packet itself is only
//! recognisable by its MAC addresses), packets longer than a page, and GSO packets with a GSO type (a test run sets
//! segment size and count, but the type stays 0). Nor does the kernel run a program on IPv4 shorter than its header, and
//! hooks on sockets have no test run at all.

mod frames;
mod harness;
mod host;
mod namespace;
mod next_hops;
mod outcome;
mod topology;

mod bridge;
mod cost;
mod decapsulation;
mod encapsulation;
mod expiry;
mod filtering;
mod fragments;
mod fuzz;
mod hairpin;
mod icmp_errors;
mod ipv6;
mod malformed;
mod mappings;
mod masquerade;
mod portmap;
mod pressure;
mod properties;
mod sctp;
mod spoofing;
mod stack;
mod stale;
mod to_uplink;
mod uplink_xdp;
mod verifier;

/// What can go wrong around a test; what the test is about panics.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

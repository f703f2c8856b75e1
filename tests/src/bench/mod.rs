//! Side-by-side measurements: the cable, the kernel's way and weft, in one run.
//!
//! All namespaces live at the same time, and the contenders of one path are measured one after another in
//! every round, so that the machine's noise hits all of them. What counts is the ratio to the cable of the
//! same round.

mod bpf;
pub mod check;
pub mod cpu;
pub mod machine;
pub mod measure;
pub mod plot;
pub mod report;
pub mod scale;
pub mod statistics;
pub mod topology;
pub mod witness;
pub mod xdp;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::Lab;
use machine::Machine;
use measure::{Effort, Kind, Sample};
use report::{Failure, Report};
use topology::Contender;

/// The job whose packets are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Two containers of one network on one host
    Bridge,
    /// A container connects to a client outside
    Masquerade,
    /// A client outside connects to a published port
    PublishedPort,
    /// The host connects to a published port of its own
    PublishedPortFromHost,
    /// A container connects to a port that another of its network has published
    Hairpin,
    /// Two containers of one overlay network on two hosts
    Overlay,
}

/// Who carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Two namespaces joined by one veth pair: the limit for every veth path. Two hosts joined so are also the
    /// bare underlay of the overlay path.
    Cable,
    /// The kernel's bridge, iptables as Docker writes it, vxlan device
    Kernel,
    /// The kernel's bridge, and nftables with one map of ports
    Nftables,
    /// Frames redirected from device to device by the shortest eBPF programs, as they are: the limit for eBPF at these
    /// devices
    Redirect,
    /// The same topology with weft
    Weft,
}

impl Path {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Bridge,
        Self::Masquerade,
        Self::PublishedPort,
        Self::PublishedPortFromHost,
        Self::Hairpin,
        Self::Overlay,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Masquerade => "masquerade",
            Self::PublishedPort => "published port",
            Self::PublishedPortFromHost => "port from the host",
            Self::Hairpin => "hairpin",
            Self::Overlay => "overlay",
        }
    }
}

impl Variant {
    /// All of them, the base of the ratios first.
    pub const ALL: [Self; 5] = [Self::Cable, Self::Kernel, Self::Nftables, Self::Redirect, Self::Weft];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cable => "cable",
            Self::Kernel => "kernel",
            Self::Nftables => "nftables",
            Self::Redirect => "redirect",
            Self::Weft => "weft",
        }
    }

    /// Whether it is another contender than the others on this path.
    pub const fn takes(self, path: Path) -> bool {
        match self {
            Self::Cable | Self::Kernel | Self::Weft => true,
            Self::Nftables => !matches!(path, Path::Bridge | Path::Overlay),
            Self::Redirect => !matches!(path, Path::PublishedPortFromHost | Path::Hairpin),
        }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Paths, each once.
    pub paths: Vec<Path>,
    /// Variants, each once.
    pub variants: Vec<Variant>,
    /// Kinds of measurement, each once.
    pub kinds: Vec<Kind>,
    /// How often.
    pub rounds: u32,
    /// How long each measurement is.
    pub effort: Effort,
}

/// Measures in an empty lab. A measurement that fails, or whose path was another one than claimed, is named in
/// the report and has no figure there; a topology that cannot be built is an error.
pub fn run(lab: &Lab, plan: &Plan) -> Result<Report> {
    let machine = Machine::now()?;
    let contenders = topology::build(lab, plan)?;
    contenders.iter().try_for_each(Contender::verify)?;
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        for &path in &plan.paths {
            let mut group = contenders.iter().filter(|it| it.path == path).collect::<Vec<_>>();
            // Nobody is always first after the change of path.
            let first = round as usize % group.len().max(1);
            group.rotate_left(first);
            // Kind by kind: the contenders of one figure stand next to each other in time.
            for &kind in &plan.kinds {
                for contender in &group {
                    let variant = contender.variant;
                    match measure::run(contender, kind, &plan.effort) {
                        Ok(figures) => samples.extend(figures.into_iter().map(|figure| Sample {
                            round,
                            path,
                            variant,
                            measure: figure.measure,
                            value: figure.value,
                        })),
                        Err(error) => {
                            failures.push(Failure {
                                round,
                                path,
                                variant,
                                kind,
                                reason: format!("{error:#}"),
                            });
                        }
                    }
                }
            }
            eprintln!("round {round} of {}: {} done", plan.rounds, path.name());
        }
    }
    Ok(Report::new(machine, plan, samples, failures))
}

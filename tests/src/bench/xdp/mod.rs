//! What an uplink's XDP program saves: packets per second of one core for a published UDP port.
//!
//! A generator at the client's end of a cable sends one datagram again and again (`BPF_F_TEST_XDP_LIVE_FRAMES`); the uplink's
//! driver receives it. Generator, uplink and container share one core, so that a packet costs what all three take, and the
//! generator's part is the same for all.

mod program;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use super::{
    bpf::{Hook, Program, Redirect},
    machine::{Machine, two_cpus},
    statistics::{Spread, short},
};
use crate::{Daemon, Host, Lab, Namespace, Process};
use program::{Action, FRAME};

const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 100), 5000);
const HOST: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 7000);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 10);

/// Who takes the packets from the uplink's driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// A program that drops all.
    Drop,
    /// A program that sends all back, to a driver that drops them: the floor of everything that sends.
    Transmit,
    /// A program that sends all to a container whose driver drops them: the floor of what weft does.
    Redirect,
    /// weft's, to a container whose driver drops them: what forwarding itself costs.
    WeftXdpForwarding,
    /// weft's, to a container's stack.
    WeftXdp,
    /// weft's in tc, to a container's stack.
    WeftTc,
    /// The kernel's bridge, conntrack and iptables' DNAT, to a container's stack.
    Iptables,
    /// weft's, of packets that it drops: for a container's own address.
    WeftXdpDrop,
    /// The same in tc.
    WeftTcDrop,
}

impl Contender {
    const ALL: [Self; 9] = [
        Self::Drop,
        Self::Transmit,
        Self::Redirect,
        Self::WeftXdpForwarding,
        Self::WeftXdp,
        Self::WeftTc,
        Self::Iptables,
        Self::WeftXdpDrop,
        Self::WeftTcDrop,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Drop => "XDP_DROP",
            Self::Transmit => "XDP_TX",
            Self::Redirect => "XDP_REDIRECT into the container",
            Self::WeftXdpForwarding => "weft by XDP, dropped by the container's driver",
            Self::WeftXdp => "weft by XDP",
            Self::WeftTc => "weft by tc",
            Self::Iptables => "iptables DNAT",
            Self::WeftXdpDrop => "weft drops by XDP",
            Self::WeftTcDrop => "weft drops by tc",
        }
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// Packets of each measurement.
    pub packets: u32,
    /// Packets per second that arrived, by round.
    pub rates: BTreeMap<Contender, Vec<f64>>,
}

/// A host with a container behind a published port, and a client on a cable.
struct Site {
    host: Host,
    client: Host,
    web: Namespace,
    daemon: Option<Daemon>,
    _server: Process,
}

/// Measures in an empty lab.
pub fn run(lab: &Lab, rounds: u32, packets: u32) -> Result<Report> {
    let machine = Machine::now()?;
    let weft = Site::build(lab, "xdp", Some("on"))?;
    let tc = Site::build(lab, "tc", Some("off"))?;
    let kernel = Site::build(lab, "kernel", None)?;
    let floor = Site::build(lab, "floor", None)?;
    let mut rates = BTreeMap::<_, Vec<f64>>::new();
    for round in 1..=rounds {
        for contender in Contender::ALL {
            let rate = match contender {
                Contender::Drop => floor.rate(packets, HOST, Some(Action::Drop), None),
                Contender::Transmit => floor.rate(packets, HOST, Some(Action::Transmit), Some(&floor.client)),
                Contender::Redirect => floor.redirected(packets),
                Contender::WeftXdpForwarding => weft.rate(packets, HOST, None, Some(&weft.web)),
                Contender::WeftXdp => weft.rate(packets, HOST, None, None),
                Contender::WeftTc => tc.rate(packets, HOST, None, None),
                Contender::Iptables => kernel.rate(packets, HOST, None, None),
                Contender::WeftXdpDrop => weft.rate(packets, (WEB, HOST.1), None, None),
                Contender::WeftTcDrop => tc.rate(packets, (WEB, HOST.1), None, None),
            };
            let rate = rate.with_context(|| format!("{}, round {round}", contender.name()))?;
            rates.entry(contender).or_default().push(rate);
            eprintln!("round {round} of {rounds}: {} {}/s", contender.name(), short(rate));
        }
    }
    Ok(Report { machine, packets, rates })
}

impl Site {
    fn build(lab: &Lab, name: &str, xdp: Option<&str>) -> Result<Self> {
        let host = lab.host(&format!("host-{name}"))?;
        let client = lab.host(&format!("client-{name}"))?;
        lab.cable((&host, "192.0.2.1/24"), (&client, "192.0.2.100/24"))?;
        host.ip("route add default via 192.0.2.100")?;
        let container = host.container("web")?;
        let (web, daemon) = if let Some(mode) = xdp {
            let daemon = host.weft(&format!(
                r#"name: xdp
networks: {{ front: {{ ipam: {{ config: [ {{ subnet: 10.10.0.0/24 }} ] }} }} }}
services:
  web:
    networks: {{ front: {{ ipv4_address: {WEB} }} }}
    ports: [ "{}:{}/udp" ]
    x-weft: {{ netns: web }}
x-weft: {{ uplinks: [ {{ name: eth0, xdp: {mode} }} ] }}
"#,
                HOST.1, HOST.1
            ))?;
            (Namespace::clone(&container), Some(daemon))
        } else {
            let bridge = host.kernel_bridge("bridge0", "10.10.0.1/24")?;
            let container = container.on_bridge(&bridge, &format!("{WEB}/24"))?;
            host.sysctl("net.ipv4.ip_forward", "1")?;
            for rule in [
                "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -p udp --dport 7000 -j DNAT --to-destination 10.10.0.10:7000",
                "-t nat -A POSTROUTING -s 10.10.0.0/24 ! -o bridge0 -j MASQUERADE",
                "-A FORWARD -o bridge0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD -o bridge0 -p udp -d 10.10.0.10 --dport 7000 -j ACCEPT",
                "-A FORWARD -i bridge0 ! -o bridge0 -j ACCEPT",
            ] {
                host.check(&format!("iptables {rule}"))?;
            }
            (Namespace::clone(&container), None)
        };
        // The driver of a veth takes what an XDP program sends only where it may make packets of it itself.
        host.check("ethtool -K eth0 gro on")?;
        client.check("ethtool -K eth0 tx off")?;
        let server = web.serve_echo(HOST.1)?;
        // The container's stack gets each packet and is done with it, whoever has brought it.
        let site = Self { host, client, web, daemon, _server: server };
        site.open()?;
        site.web.check("iptables -t raw -A PREROUTING -p udp -j DROP")?;
        Ok(site)
    }

    /// Has both ends say something, so that there is a flow.
    fn open(&self) -> Result<()> {
        self.client.inside(|| {
            let socket = UdpSocket::bind(CLIENT)?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
            for _ in 0..3 {
                socket.send_to(b"open", HOST)?;
                socket.recv_from(&mut [0; 9]).context("no answer")?;
            }
            Ok(())
        })
    }

    /// Packets per second that arrive where they are counted: dropped by a program at the uplink, by one at a far end, or
    /// by the container's stack.
    fn rate(
        &self,
        packets: u32,
        to: (Ipv4Addr, u16),
        uplink: Option<Action>,
        far: Option<&Namespace>,
    ) -> Result<f64> {
        let index = || if_nametoindex("eth0").context("eth0");
        let attached = |place: &Namespace, action: Action| -> Result<OwnedFd> {
            place.inside(|| Ok(program::always(action)?.attach(index()?)?))
        };
        let _uplink = uplink.map(|action| attached(&self.host, action)).transpose()?;
        let _far = far.map(|far| attached(far, Action::Drop)).transpose()?;
        let frame = self.frame(to)?;
        let sink: &Namespace = match (uplink, far) {
            (Some(Action::Drop), _) => &self.host,
            _ if to != HOST => &self.host,
            (_, Some(far)) => far,
            _ => &self.web,
        };
        // The first packets fill caches and pools.
        self.send(&frame, packets / 20)?;
        let by_xdp = self.by_xdp()?;
        let before = sink.interface("eth0")?.rx.packets;
        let seconds = self.send(&frame, packets)?;
        let arrived = sink.interface("eth0")?.rx.packets - before;
        ensure!(arrived > u64::from(packets) * 9 / 10, "{arrived} of {packets} arrived");
        if let (Some(before), Some(after)) = (by_xdp, self.by_xdp()?) {
            let wanted = if self.is_on()? { u64::from(packets) } else { 0 };
            ensure!(after - before == wanted, "{} packets by XDP, not {wanted}", after - before);
        }
        Ok(arrived as f64 / seconds)
    }

    /// The same with a program at the uplink that sends all to the container.
    fn redirected(&self, packets: u32) -> Result<f64> {
        let ports = self.host.ip_json("link show master bridge0")?;
        let index = ports[0]["ifindex"].as_u64().context("no port")?;
        let _uplink = self.host.inside(|| {
            let program = Program::redirecting(Hook::Xdp, Redirect::Out, u32::try_from(index)?)?;
            Ok(program.attach(if_nametoindex("eth0")?)?)
        })?;
        self.rate(packets, HOST, None, Some(&self.web))
    }

    fn is_on(&self) -> Result<bool> {
        let daemon = self.daemon.as_ref().context("no daemon")?;
        Ok(daemon.json(&["status"])?["uplinks"][0]["xdp"]["mode"] == "native")
    }

    /// What weft has counted at XDP.
    fn by_xdp(&self) -> Result<Option<u64>> {
        let Some(daemon) = &self.daemon else { return Ok(None) };
        Ok(daemon.json(&["status"])?["counters"]["xdp"]["packets"].as_u64())
    }

    /// Sends, and answers how many seconds that took on one core.
    fn send(&self, frame: &[u8; FRAME], packets: u32) -> Result<f64> {
        let [cpu, _] = two_cpus()?;
        self.client.inside(|| {
            let mut cpus = CpuSet::new();
            cpus.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &cpus)?;
            let generator = program::generator(frame)?;
            let ifindex = if_nametoindex("eth0")?;
            let start = Instant::now();
            generator.run_live(&[0; FRAME], ifindex, packets)?;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    /// The client's datagram with 18 bytes in it: the shortest Ethernet frame.
    fn frame(&self, to: (Ipv4Addr, u16)) -> Result<[u8; FRAME]> {
        let mac = |place: &Namespace| -> Result<[u8; 6]> {
            let links = place.ip_json("link show dev eth0")?;
            let text = links[0]["address"].as_str().context("no MAC address")?;
            let octets: Vec<u8> =
                text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
            octets.try_into().ok().context("no MAC address")
        };
        let mut ip = [0_u8; 20];
        ip[..4].copy_from_slice(&[0x45, 0, 0, 46]);
        (ip[8], ip[9]) = (64, 17);
        ip[12..16].copy_from_slice(&CLIENT.0.octets());
        ip[16..].copy_from_slice(&to.0.octets());
        let checksum = !sum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut udp = [0_u8; 26];
        udp[..2].copy_from_slice(&CLIENT.1.to_be_bytes());
        udp[2..4].copy_from_slice(&to.1.to_be_bytes());
        udp[4..6].copy_from_slice(&26_u16.to_be_bytes());
        let checksum = !sum(&[&ip[12..], &[0, 17, 0, 26], &udp].concat());
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        let frame = [&mac(&self.host)?[..], &mac(&self.client)?, &[0x08, 0x00], &ip, &udp].concat();
        frame.try_into().ok().context("a frame of another length")
    }
}

/// The one's complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

impl Report {
    /// For people.
    pub fn markdown(&self) -> String {
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header([
            "who",
            "packets/s of one core",
            "of XDP_TX",
            "of iptables",
        ]);
        let spread = |contender| self.rates.get(&contender).and_then(|rates| Spread::of(rates.clone()));
        let median = |contender| spread(contender).map_or(f64::NAN, |spread| spread.median);
        for contender in Contender::ALL {
            let Some(rate) = spread(contender) else { continue };
            table.add_row([
                contender.name().to_owned(),
                format!("{} ({}–{})", short(rate.median), short(rate.min), short(rate.max)),
                short(rate.median / median(Contender::Transmit)),
                short(rate.median / median(Contender::Iptables)),
            ]);
        }
        format!("{}\n\n{table}", self.machine.describe())
    }

    /// As JSON for the record.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_up() {
        let mut header = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 100, 192, 0, 2, 1];
        let checksum = !sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(sum(&header), 0xffff);
    }
}

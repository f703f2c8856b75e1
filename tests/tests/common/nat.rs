//! A host whose containers are masqueraded, and stations in place of everybody's stacks: they send and hear packets as
//! they are on the wire, and nothing answers by itself.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt,
            socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};
use tests::Namespace;

use super::{ONE_HOST, OneHost, packet::Packet};

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// A second address of the client's.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 10);
pub const SHOP: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 11);
/// In another network than the two.
pub const SIDE: Ipv4Addr = Ipv4Addr::new(10, 12, 0, 12);

/// How long a packet may take that must arrive.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing must come where nothing may.
pub const QUIET: Duration = Duration::from_millis(250);

pub const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Somebody who sends packets and hears those for one address.
pub struct Station {
    pub address: Ipv4Addr,
    name: String,
    mouth: OwnedFd,
    ear: OwnedFd,
}

impl Station {
    /// In place of a namespace's stack, which from now on hears no IPv4 packet.
    pub fn new(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        namespace.check(
            "nft 'table ip station { chain input { type filter hook input priority 0; policy drop; }; }'",
        )?;
        Self::beside_the_stack(namespace, address)
    }

    /// Without silencing the stack.
    pub fn beside_the_stack(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let (mouth, ear) = namespace.inside(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let mouth = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?;
            // SAFETY: plain call; the descriptor is checked before it is used.
            let ear = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
                    i32::from(0x0800_u16.to_be()),
                )
            };
            ensure!(ear >= 0, "a packet socket: {}", io::Error::last_os_error());
            // SAFETY: an open descriptor that nobody else has.
            Ok((mouth, unsafe { OwnedFd::from_raw_fd(ear) }))
        })?;
        Ok(Self { address, name: namespace.name().to_owned(), mouth, ear })
    }

    pub fn at(&self, port: u16) -> SocketAddrV4 {
        at(self.address, port)
    }

    pub fn send(&self, packet: &Packet) -> Result<()> {
        let to = SockaddrIn::from(at(packet.destination, 0));
        sendto(self.mouth.as_raw_fd(), &packet.bytes(), &to, MsgFlags::empty())
            .with_context(|| format!("{} sends {packet:?}", self.name))?;
        Ok(())
    }

    /// Sends packets that wait for one another on the way, for 67 ms: nothing else on this machine comes between them.
    pub fn send_together<'a>(&self, packets: impl IntoIterator<Item = &'a Packet>) -> Result<()> {
        schedule(libc::SCHED_RR, 1)?;
        let sent = packets.into_iter().try_for_each(|packet| self.send(packet));
        schedule(libc::SCHED_OTHER, 0)?;
        sent
    }

    fn next(&self, until: Instant) -> Result<Option<Packet>> {
        let mut buffer = vec![0; 65_536];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Zero would be for ever.
            let left = TimeVal::new(left.as_secs().try_into()?, i64::from(left.subsec_micros()).max(1));
            setsockopt(&self.ear, ReceiveTimeout, &left)?;
            let length = match recv(self.ear.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => return Ok(None),
                other => other?,
            };
            let packet = Packet::parse(&buffer[..length]).with_context(|| format!("{} hears", self.name))?;
            if packet.destination == self.address {
                return Ok(Some(packet));
            }
        }
    }

    /// The next packet that is for this station and wanted; others are left out.
    pub fn hear(&self, limit: Duration, wanted: impl Fn(&Packet) -> bool) -> Result<Option<Packet>> {
        let until = Instant::now() + limit;
        while let Some(packet) = self.next(until)? {
            if wanted(&packet) {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }

    /// Everything that has come so far, whoever it is for.
    pub fn overheard(&self) -> Result<Vec<Packet>> {
        let mut buffer = vec![0; 65_536];
        let mut packets = Vec::new();
        while let Ok(length) = recv(self.ear.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            packets.push(Packet::parse(&buffer[..length])?);
        }
        Ok(packets)
    }

    /// Forgets what has come so far.
    pub fn drain(&self) {
        let mut buffer = [0; 64];
        while recv(self.ear.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }

    /// The next packet for this station, which must come and have a right checksum.
    pub fn expect(&self, what: &str) -> Result<Packet> {
        let packet = self
            .next(Instant::now() + PATIENCE)?
            .with_context(|| format!("{}: {what} did not arrive", self.name))?;
        ensure!(
            packet.offset != 0 || packet.more_fragments || packet.is_intact(),
            "{what}: wrong checksum in {packet:?}"
        );
        Ok(packet)
    }

    /// Nothing comes for a while.
    pub fn expect_nothing(&self, what: &str) -> Result<()> {
        let heard = self.next(Instant::now() + QUIET)?;
        ensure!(heard.is_none(), "{}: {what}: {heard:?}", self.name);
        Ok(())
    }

    /// Sends a packet that must reach another station; it as it arrives.
    #[track_caller]
    pub fn reach(&self, to: &Self, packet: &Packet) -> Result<Packet> {
        let place = std::panic::Location::caller();
        self.send(packet)?;
        to.expect(&format!("{packet:?} of {} ({place})", self.name))
    }

    /// Sends a packet that must not reach another station.
    #[track_caller]
    pub fn miss(&self, to: &Self, packet: &Packet) -> Result<()> {
        let place = std::panic::Location::caller();
        self.send(packet)?;
        to.expect_nothing(&format!("{packet:?} of {} ({place})", self.name))
    }
}

/// How this thread is scheduled from now on.
fn schedule(policy: libc::c_int, priority: libc::c_int) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: plain call; the kernel only reads the parameters.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })
        .context("sched_setscheduler")?;
    Ok(())
}

/// The host with everybody's stations.
pub struct Nat {
    pub it: OneHost,
    /// What the daemon was given.
    pub file: String,
    pub web: Station,
    pub shop: Station,
    pub side: Station,
    pub client: Station,
    /// The client by its other address.
    pub other: Station,
}

impl Nat {
    pub fn new(title: &str) -> Result<Self> {
        Self::with(title, "", "")
    }

    /// With these options of the network `front` (of `web` and `shop`) and settings of the host.
    pub fn with(title: &str, options: &str, settings: &str) -> Result<Self> {
        let file = ONE_HOST
            .replace("front: { ipam", &format!("front: {{ driver_opts: {{ {options} }}, ipam"))
            .replace("uplinks: [ eth0 ]", &format!("uplinks: [ eth0 ], {settings}"));
        let it = OneHost::with(title, &file)?;
        it.client.ip(&format!("address add {OTHER}/24 dev eth0"))?;
        let (web, shop) = (Station::new(&it.web, WEB)?, Station::new(&it.shop, SHOP)?);
        let side = Station::new(&it.other, SIDE)?;
        let client = Station::new(&it.client, CLIENT)?;
        let other = Station::beside_the_stack(&it.client, OTHER)?;
        Ok(Self { it, file, web, shop, side, client, other })
    }

    /// A number of the map `settings`.
    pub fn setting(&self, name: &str) -> Result<u64> {
        let settings = super::entries(&self.it.host, &self.it.daemon, "settings")?;
        let value = settings.first().and_then(|settings| settings["formatted"]["value"][name].as_u64());
        value.with_context(|| format!("no {name} in {settings:?}"))
    }

    /// `weft flow ls`, those with this external port.
    pub fn flows(&self, external_port: u16) -> Result<Vec<serde_json::Value>> {
        let flows = self.it.daemon.json(&["flow", "ls"])?;
        let all = flows.as_array().context("no list")?;
        Ok(all.iter().filter(|flow| flow["external_port"] == external_port).cloned().collect())
    }

    pub fn finish(self) -> Result<()> {
        self.it.lab.finish()
    }
}

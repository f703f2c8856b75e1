//! A pair of devices that gives back what is sent into it a little later: a veth pair in this namespace, with a token
//! bucket at its entrance.

use bytemuck::{Pod, Zeroable};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkMessage},
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    error::{Error, Result},
    handle::Netlink,
    link::{Link, LinkKind},
    sysctl,
};

/// Attributes of `tbf` (linux/pkt_sched.h).
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
/// `TCA_OPTIONS` (linux/rtnetlink.h).
const TCA_OPTIONS: u16 = 2;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes the times of packets itself instead of reading them from a table.
const LINK_LAYER_ETHERNET: u8 = 1;

/// `struct tc_ratespec`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct RateSpec {
    cell_log: u8,
    link_layer: u8,
    overhead: u16,
    cell_align: i16,
    minimum_packet: u16,
    rate: u32,
}

/// `struct tc_tbf_qopt`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct TokenBucket {
    rate: RateSpec,
    peak_rate: RateSpec,
    limit: u32,
    buffer: u32,
    mtu: u32,
}

/// What a delaying pair must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelaySpec {
    /// Name of the end where packets go in.
    pub entrance: String,
    /// Name of the end where they come out.
    pub exit: String,
    /// Mark of ownership of both ends.
    pub alias: String,
    /// Bytes a second.
    pub rate: u32,
    /// A shorter packet counts as one of so many bytes.
    pub minimum_packet: u16,
    /// Longest packet, and what may pass at once after silence, in bytes.
    pub burst: u32,
    /// Packets that may wait; what comes then is dropped.
    pub limit: u32,
}

impl DelaySpec {
    /// Whether both ends are as this asks; their queue is not looked at.
    pub fn is_satisfied_by(&self, entrance: &Link, exit: &Link) -> bool {
        let is_end = |link: &Link, name: &str| {
            link.name == name
                && link.alias.as_deref() == Some(&self.alias)
                && link.mtu == MTU
                && link.up
                && link.master.is_none()
        };
        let is_pair = matches!(&entrance.kind, LinkKind::Veth(Some(peer))
            if peer.namespace_id.is_none() && peer.ifindex == exit.ifindex);
        is_pair && is_end(entrance, &self.entrance) && is_end(exit, &self.exit)
    }

    /// Whether a device is as [`Self::create`] leaves it: what a daemon leaves that is killed before it has marked it.
    pub fn is_as_made(link: &Link) -> bool {
        link.is_unmarked() && link.mtu == MTU && matches!(link.kind, LinkKind::Veth(_))
    }

    fn create(&self) -> LinkMessage {
        let exit = LinkMessageBuilder::<LinkUnspec>::new().name(&self.exit).mtu(MTU).build();
        LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(&self.entrance)
            .mtu(MTU)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(exit)))
            .build()
    }

    fn queue(&self, ifindex: u32) -> TcMessage {
        let bucket = TokenBucket {
            rate: RateSpec {
                link_layer: LINK_LAYER_ETHERNET,
                minimum_packet: self.minimum_packet,
                rate: self.rate,
                ..RateSpec::default()
            },
            // Handed on to the queue inside.
            limit: self.limit,
            ..TokenBucket::default()
        };
        let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
        let mut message = TcMessage::with_index(ifindex.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        message.attributes = vec![
            TcAttribute::Kind("tbf".to_owned()),
            TcAttribute::Options(vec![
                option(TCA_TBF_PARMS, bytemuck::bytes_of(&bucket)),
                option(TCA_TBF_BURST, &self.burst.to_ne_bytes()),
            ]),
        ];
        message
    }

    /// What waits for its turn, counted in packets: in bytes many more short ones would wait, and longer.
    fn queue_inside(&self, ifindex: u32) -> TcMessage {
        let mut message = TcMessage::with_index(ifindex.cast_signed());
        message.header.parent = TcHandle { major: 1, minor: 1 };
        message.header.handle = TcHandle { major: 2, minor: 0 };
        // `struct tc_fifo_qopt` is the packets' number alone.
        let limit = DefaultNla::new(TCA_OPTIONS, self.limit.to_ne_bytes().to_vec());
        message.attributes = vec![TcAttribute::Kind("pfifo".to_owned()), TcAttribute::Other(limit)];
        message
    }
}

/// Every packet fits.
const MTU: u32 = 65_535;

impl Netlink {
    /// Makes a delaying pair in the calling thread's namespace, or puts it right, its queue as well. Devices of these names
    /// that are not weft's are an error and stay.
    pub async fn ensure_delay(&self, spec: &DelaySpec) -> Result<()> {
        let ends = (self.link(&spec.entrance).await?, self.link(&spec.exit).await?);
        if let (Some(entrance), Some(exit)) = &ends
            && spec.is_satisfied_by(entrance, exit)
        {
            return self.ensure_queue(spec, entrance.ifindex).await;
        }
        for link in [&ends.0, &ends.1].into_iter().flatten() {
            if !DelaySpec::is_as_made(link) {
                link.owned(self, "veth", &spec.alias)?;
            }
        }
        // Rarely more than one of these is there, and what waits in them is a matter of milliseconds: made anew.
        for link in [ends.0, ends.1].into_iter().flatten() {
            self.remove_link_by_index(link.ifindex, &link.name).await?;
        }
        let operation = format!("create veth {} with {}", spec.entrance, spec.exit);
        self.create_link(&operation, spec.create()).await?;
        let (entrance, exit) = (self.expect_link(&spec.entrance).await?, self.expect_link(&spec.exit).await?);
        for link in [&entrance, &exit] {
            let message = LinkUnspec::new_with_index(link.ifindex).alias(&spec.alias).build();
            self.change_link(&format!("configure veth {}", link.name), message).await?;
            // A host that forwards reports on each device that it listens to the routers' group (RFC 4291 section 2.8,
            // RFC 3810 section 5.2): at the exit that would be packets that nobody has sent in.
            sysctl::ensure_no_ipv6(&link.name)?;
        }
        // Before the pair is up: nothing passes it without delay.
        if let Err(error) = self.ensure_queue(spec, entrance.ifindex).await {
            self.remove_link_by_index(entrance.ifindex, &entrance.name).await?;
            return Err(error);
        }
        for link in [&entrance, &exit] {
            let message = LinkUnspec::new_with_index(link.ifindex).up().build();
            self.change_link(&format!("set device {} up", link.name), message).await?;
        }
        Ok(())
    }

    /// Whatever is there: the kernel changes a queue of this kind in place and replaces another one.
    async fn ensure_queue(&self, spec: &DelaySpec, entrance: u32) -> Result<()> {
        let operation = format!("give device {} a queue of kind tbf", spec.entrance);
        let message = RouteNetlinkMessage::NewQueueDiscipline(spec.queue(entrance));
        let outside = self.change(&operation, message, NLM_F_CREATE | NLM_F_REPLACE).await;
        match outside {
            Err(Error::Kernel { operation, namespace, errno: nix::errno::Errno::ENOENT, .. }) => {
                Err(Error::Kernel {
                    operation,
                    namespace,
                    errno: nix::errno::Errno::ENOENT,
                    message: Some("this kernel has no tbf (module sch_tbf)".to_owned()),
                })
            }
            Err(error) => Err(error),
            Ok(()) => {
                let operation = format!("give device {} a queue of kind pfifo", spec.entrance);
                let message = RouteNetlinkMessage::NewQueueDiscipline(spec.queue_inside(entrance));
                self.change(&operation, message, NLM_F_CREATE | NLM_F_REPLACE).await
            }
        }
    }
}

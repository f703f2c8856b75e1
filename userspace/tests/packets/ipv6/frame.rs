//! IPv6 frames as descriptions; see `frames` for those of IPv4.

use std::net::Ipv6Addr;

use etherparse::{
    EtherType, IcmpEchoHeader, Icmpv6Header, Icmpv6Type, IpNumber, Ipv6Header, TcpHeader, UdpHeader,
};

use super::topology::Member;
use crate::{
    frames::{ethernet, sctp_header},
    topology::{ROUTER_MAC, UPLINK_MAC},
};

/// Numbers of extension headers (RFC 8200 section 4).
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

/// Address and port.
pub type Socket = (Ipv6Addr, u16);

/// What is behind the IPv6 headers.
#[derive(Debug, Clone)]
pub enum Transport {
    Tcp(TcpHeader),
    Udp {
        source: u16,
        destination: u16,
    },
    Sctp {
        source: u16,
        destination: u16,
    },
    Icmp(Icmpv6Type),
    /// The payload is all there is.
    Raw(IpNumber),
}

/// An IPv6 packet in an Ethernet frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub ip: Ipv6Header,
    /// Number and content of each; the first byte of the content is overwritten with the number of the next.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

impl Frame {
    fn new(transport: Transport, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let ip = Ipv6Header {
            traffic_class: 0xb8,
            flow_label: 0x12345.try_into().expect("twenty bits"),
            payload_length: 0,
            next_header: IpNumber::UDP,
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
        };
        Self {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            ip,
            extensions: Vec::new(),
            transport,
            payload: b"some payload".to_vec(),
        }
    }

    /// A packet of some protocol; the payload is the transport header, too.
    pub fn raw(protocol: IpNumber, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self::new(Transport::Raw(protocol), source, destination)
    }

    pub fn tcp(source: Socket, destination: Socket) -> Self {
        let header = TcpHeader::new(source.1, destination.1, 0x1234_5678, 0x1000);
        Self::new(Transport::Tcp(header), source.0, destination.0)
    }

    pub fn syn(source: Socket, destination: Socket) -> Self {
        let mut header = TcpHeader::new(source.1, destination.1, 0x1234_5678, 0x1000);
        header.syn = true;
        Self::new(Transport::Tcp(header), source.0, destination.0).payload(b"")
    }

    pub fn syn_ack(source: Socket, destination: Socket) -> Self {
        let mut frame = Self::syn(source, destination);
        if let Transport::Tcp(tcp) = &mut frame.transport {
            tcp.ack = true;
        }
        frame
    }

    pub fn udp(source: Socket, destination: Socket) -> Self {
        let transport = Transport::Udp { source: source.1, destination: destination.1 };
        Self::new(transport, source.0, destination.0)
    }

    pub fn sctp(source: Socket, destination: Socket) -> Self {
        let transport = Transport::Sctp { source: source.1, destination: destination.1 };
        Self::new(transport, source.0, destination.0)
    }

    pub fn echo_request(source: Ipv6Addr, destination: Ipv6Addr, id: u16) -> Self {
        Self::icmp(Icmpv6Type::EchoRequest(IcmpEchoHeader { id, seq: 1 }), source, destination)
    }

    pub fn echo_reply(source: Ipv6Addr, destination: Ipv6Addr, id: u16) -> Self {
        Self::icmp(Icmpv6Type::EchoReply(IcmpEchoHeader { id, seq: 1 }), source, destination)
    }

    pub fn icmp(kind: Icmpv6Type, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self::new(Transport::Icmp(kind), source, destination)
    }

    pub fn macs(self, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Self {
        Self { source_mac, destination_mac, ..self }
    }

    /// As a container sends it to its gateway.
    pub fn sent_by(self, member: &Member) -> Self {
        self.macs(member.mac(), member.gateway_mac())
    }

    /// As a container gets it from its gateway.
    pub fn routed_to(self, member: &Member) -> Self {
        self.macs(member.gateway_mac(), member.mac())
    }

    /// As the uplink's router delivers it.
    pub fn by_router(self) -> Self {
        self.macs(ROUTER_MAC, UPLINK_MAC)
    }

    /// With another source; the port is the identifier of an echo.
    pub fn source(mut self, (address, port): Socket) -> Self {
        self.ip.source = address.octets();
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.source_port = port,
            Transport::Udp { source, .. } | Transport::Sctp { source, .. } => *source = port,
            Transport::Icmp(Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo)) => echo.id = port,
            _ => {}
        }
        self
    }

    /// With another destination; the port is the identifier of an echo.
    pub fn destination(mut self, (address, port): Socket) -> Self {
        self.ip.destination = address.octets();
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.destination_port = port,
            Transport::Udp { destination, .. } | Transport::Sctp { destination, .. } => *destination = port,
            Transport::Icmp(Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo)) => echo.id = port,
            _ => {}
        }
        self
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.ip.hop_limit = hop_limit;
        self
    }

    /// One hop further.
    pub fn hop(self) -> Self {
        let hop_limit = self.ip.hop_limit - 1;
        self.hop_limit(hop_limit)
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With one more extension header.
    pub fn extension(mut self, number: u8, content: &[u8]) -> Self {
        self.extensions.push((number, content.to_vec()));
        self
    }

    /// A fragment; the offset counts in units of eight bytes.
    pub fn fragment(self, offset: u16, more: bool, identification: u32) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let [a, b, c, d] = identification.to_be_bytes();
        self.extension(FRAGMENT, &[0, 0, high, low, a, b, c, d])
    }

    /// The frame as bytes, lengths and checksums computed.
    pub fn bytes(&self) -> Vec<u8> {
        let mut ip = self.ip.clone();
        let (protocol, transport): (IpNumber, Vec<u8>) = match &self.transport {
            Transport::Tcp(tcp) => {
                let mut tcp = tcp.clone();
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).expect("short");
                (IpNumber::TCP, tcp.to_bytes().to_vec())
            }
            Transport::Udp { source, destination } => {
                let udp = UdpHeader::with_ipv6_checksum(*source, *destination, &ip, &self.payload);
                (IpNumber::UDP, udp.expect("short").to_bytes().to_vec())
            }
            Transport::Sctp { source, destination } => {
                (IpNumber::SCTP, sctp_header(*source, *destination, true, &self.payload).to_vec())
            }
            Transport::Icmp(kind) => {
                let icmp = Icmpv6Header::with_checksum(*kind, ip.source, ip.destination, &self.payload);
                (IpNumber::IPV6_ICMP, icmp.expect("short").to_bytes().to_vec())
            }
            Transport::Raw(protocol) => (*protocol, Vec::new()),
        };
        let numbers: Vec<u8> =
            self.extensions.iter().map(|(number, _)| *number).chain([protocol.0]).collect();
        ip.next_header = IpNumber(numbers[0]);
        let mut extensions = Vec::new();
        for ((_, content), next) in self.extensions.iter().zip(&numbers[1..]) {
            extensions.push(*next);
            extensions.extend_from_slice(&content[1..]);
        }
        let length = extensions.len() + transport.len() + self.payload.len();
        ip.payload_length = u16::try_from(length).expect("short");
        [
            ethernet(self.source_mac, self.destination_mac, EtherType::IPV6).as_slice(),
            &ip.to_bytes(),
            &extensions,
            &transport,
            &self.payload,
        ]
        .concat()
    }
}

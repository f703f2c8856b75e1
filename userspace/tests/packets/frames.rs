//! Frames as descriptions: what differs between the packet that goes in and the one that must come out is one call.
//! Headers and checksums are etherparse's, that of SCTP is divided out here, so an expectation shares no code with the
//! programs.

use std::net::Ipv4Addr;

use etherparse::{
    ArpEthIpv4Packet, ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IcmpEchoHeader,
    Icmpv4Header, Icmpv4Type, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader,
    UdpHeader,
};

use crate::topology::{Container, ROUTER_MAC, UPLINK_MAC};

/// An IPv4 packet in an Ethernet frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub ip: Ipv4Header,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

/// What is behind the IPv4 header.
#[derive(Debug, Clone)]
pub enum Transport {
    Tcp(TcpHeader),
    Udp {
        source: u16,
        destination: u16,
        checksum: bool,
    },
    /// The payload is the chunks.
    Sctp {
        source: u16,
        destination: u16,
        checksum: bool,
    },
    Icmp(Icmpv4Type),
    /// The payload is all there is.
    Raw,
}

/// Address and port.
pub type Socket = (Ipv4Addr, u16);

impl Frame {
    /// A packet of some protocol; the payload is the transport header, too.
    pub fn ip(protocol: IpNumber, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let mut ip = Ipv4Header::new(0, 64, protocol, source.octets(), destination.octets()).expect("short");
        ip.identification = 0x1234;
        Self {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            ip,
            transport: Transport::Raw,
            payload: b"some payload".to_vec(),
        }
    }

    /// A TCP segment, without any control bit.
    pub fn tcp(source: Socket, destination: Socket) -> Self {
        let header = TcpHeader::new(source.1, destination.1, 0x1234_5678, 0x1000);
        Self { transport: Transport::Tcp(header), ..Self::ip(IpNumber::TCP, source.0, destination.0) }
    }

    /// A SYN.
    pub fn syn(source: Socket, destination: Socket) -> Self {
        Self::tcp(source, destination).control(|tcp| tcp.syn = true).payload(b"")
    }

    pub fn udp(source: Socket, destination: Socket) -> Self {
        let transport = Transport::Udp { source: source.1, destination: destination.1, checksum: true };
        Self { transport, ..Self::ip(IpNumber::UDP, source.0, destination.0) }
    }

    pub fn sctp(source: Socket, destination: Socket) -> Self {
        let transport = Transport::Sctp { source: source.1, destination: destination.1, checksum: true };
        Self { transport, ..Self::ip(IpNumber::SCTP, source.0, destination.0) }
    }

    pub fn echo_request(source: Ipv4Addr, destination: Ipv4Addr, id: u16) -> Self {
        Self::icmp(Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 }), source, destination)
    }

    pub fn echo_reply(source: Ipv4Addr, destination: Ipv4Addr, id: u16) -> Self {
        Self::icmp(Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq: 1 }), source, destination)
    }

    pub fn icmp(kind: Icmpv4Type, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self { transport: Transport::Icmp(kind), ..Self::ip(IpNumber::ICMP, source, destination) }
    }

    pub fn macs(self, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Self {
        Self { source_mac, destination_mac, ..self }
    }

    /// As a container sends it to its gateway.
    pub fn sent_by(self, container: &Container) -> Self {
        self.macs(container.mac, container.network.gateway_mac)
    }

    /// As a container gets it from its gateway.
    pub fn routed_to(self, container: &Container) -> Self {
        self.macs(container.network.gateway_mac, container.mac)
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
            Transport::Icmp(Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo)) => echo.id = port,
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
            Transport::Icmp(Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo)) => echo.id = port,
            _ => {}
        }
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.time_to_live = ttl;
        self
    }

    /// One hop further.
    pub fn hop(self) -> Self {
        let ttl = self.ip.time_to_live - 1;
        self.ttl(ttl)
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn control(mut self, change: impl FnOnce(&mut TcpHeader)) -> Self {
        if let Transport::Tcp(tcp) = &mut self.transport {
            change(tcp);
        }
        self
    }

    /// UDP with the checksum field 0: none. SCTP: whoever sends it at last makes it.
    pub fn without_checksum(mut self) -> Self {
        if let Transport::Udp { checksum, .. } | Transport::Sctp { checksum, .. } = &mut self.transport {
            *checksum = false;
        }
        self
    }

    pub fn dscp_and_ecn(mut self, dscp: u8, ecn: u8) -> Self {
        self.ip.dscp = IpDscp::try_new(dscp).expect("six bits");
        self.ip.ecn = IpEcn::try_new(ecn).expect("two bits");
        self
    }

    /// IPv4 options, a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.ip.options = Ipv4Options::try_from(options).expect("a multiple of four, at most forty");
        self
    }

    /// A fragment; the offset counts in units of eight bytes.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.ip.dont_fragment = false;
        self.ip.more_fragments = more;
        self.ip.fragment_offset = IpFragOffset::try_new(offset).expect("thirteen bits");
        self
    }

    /// The source port, or identifier.
    pub fn source_port(&self) -> u16 {
        match &self.transport {
            Transport::Tcp(tcp) => tcp.source_port,
            Transport::Udp { source, .. } | Transport::Sctp { source, .. } => *source,
            Transport::Icmp(Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo)) => echo.id,
            _ => 0,
        }
    }

    /// The frame as bytes, lengths and checksums computed.
    pub fn bytes(&self) -> Vec<u8> {
        let mut ip = self.ip.clone();
        let transport: Vec<u8> = match &self.transport {
            Transport::Tcp(tcp) => {
                let mut tcp = tcp.clone();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).expect("short");
                tcp.to_bytes().to_vec()
            }
            Transport::Udp { source, destination, checksum: true } => {
                let udp = UdpHeader::with_ipv4_checksum(*source, *destination, &ip, &self.payload);
                udp.expect("short").to_bytes().to_vec()
            }
            Transport::Udp { source, destination, checksum: false } => {
                let udp = UdpHeader::without_ipv4_checksum(*source, *destination, self.payload.len());
                udp.expect("short").to_bytes().to_vec()
            }
            Transport::Sctp { source, destination, checksum } => {
                sctp_header(*source, *destination, *checksum, &self.payload).to_vec()
            }
            Transport::Icmp(kind) => {
                Icmpv4Header::with_checksum(kind.clone(), &self.payload).to_bytes().to_vec()
            }
            Transport::Raw => Vec::new(),
        };
        ip.set_payload_len(transport.len() + self.payload.len()).expect("short");
        ip.header_checksum = ip.calc_header_checksum();
        [
            ethernet(self.source_mac, self.destination_mac, EtherType::IPV4).as_slice(),
            &ip.to_bytes(),
            &transport,
            &self.payload,
        ]
        .concat()
    }
}

/// The common header of an SCTP packet with these chunks (RFC 9260 section 3.1).
pub fn sctp_header(source: u16, destination: u16, checksum: bool, chunks: &[u8]) -> [u8; 12] {
    let mut header = [0; 12];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    if checksum {
        let sum = crc32c(&[&header, chunks].concat());
        header[8..].copy_from_slice(&sum.to_le_bytes());
    }
    header
}

/// RFC 9260 appendix A, bit by bit.
pub fn crc32c(message: &[u8]) -> u32 {
    let bit = |register: u32, _| register >> 1 ^ if register & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !message.iter().fold(u32::MAX, |register, byte| (0..8).fold(register ^ u32::from(*byte), bit))
}

/// An Ethernet header.
pub fn ethernet(source: [u8; 6], destination: [u8; 6], ether_type: EtherType) -> [u8; 14] {
    Ethernet2Header { source, destination, ether_type }.to_bytes()
}

/// A broadcast ARP request.
pub fn arp(frame_source: [u8; 6], sender_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpPacket::from(ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac,
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    });
    assert_eq!(packet.hw_addr_type, ArpHardwareId::ETHERNET);
    [ethernet(frame_source, [0xff; 6], EtherType::ARP).as_slice(), &packet.to_bytes()].concat()
}

/// Checks lengths and checksums of an Ethernet frame with an IPv4 packet, by etherparse.
pub fn assert_checksums(frame: &[u8]) {
    let (_, rest) = Ethernet2Header::from_slice(frame).expect("an Ethernet header");
    let (ip, rest) = Ipv4Header::from_slice(rest).expect("an IPv4 header");
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 header checksum");
    let rest = rest.get(..usize::from(ip.payload_len().expect("a length"))).expect("all of the payload");
    match ip.protocol {
        IpNumber::TCP => {
            let (tcp, payload) = TcpHeader::from_slice(rest).expect("a TCP header");
            assert_eq!(Ok(tcp.checksum), tcp.calc_checksum_ipv4(&ip, payload), "TCP checksum");
        }
        IpNumber::UDP => {
            let (udp, payload) = UdpHeader::from_slice(rest).expect("a UDP header");
            if udp.checksum != 0 {
                assert_eq!(Ok(udp.checksum), udp.calc_checksum_ipv4(&ip, payload), "UDP checksum");
            }
        }
        IpNumber::ICMP => {
            let (icmp, payload) = Icmpv4Header::from_slice(rest).expect("an ICMP header");
            let expected = Icmpv4Header::with_checksum(icmp.icmp_type.clone(), payload);
            assert_eq!(icmp.checksum, expected.checksum, "ICMP checksum");
        }
        IpNumber::SCTP => {
            let mut cleared = rest.to_vec();
            cleared[8..12].fill(0);
            assert_eq!(rest[8..12], crc32c(&cleared).to_le_bytes(), "SCTP checksum");
        }
        other => panic!("no checksum known for {other:?}"),
    }
}

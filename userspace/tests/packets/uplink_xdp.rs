//! uplink_xdp: what it carries and drops is what `from_uplink` would, and all else is left to that untouched.

use aya::programs::{TestRun as _, TestRunOptions};
use dataplane_common::abi::{
    Counter, DropReason, Endpoint, EndpointKey, Flow, MacAddress, Path, flags, map, program,
};
use etherparse::IpNumber;
use nix::net::if_::if_nametoindex;

use crate::{
    Result,
    decapsulation::{inner, outer},
    encapsulation::vxlan_header,
    frames::Frame,
    harness::GROWTH,
    host::{Host, TCP, UDP, with_host},
    ipv6,
    outcome::{Outcome, Verdict},
    topology::{
        A, B, C, Container, FAR, FAR_MAC, HOST, M, MESH, PEER, REMOTE, REMOTE_2, ROUTER_MAC, STRANGER,
        UPLINK, UPLINK_MAC, VXLAN_PORT,
    },
};

const CLIENT: (std::net::Ipv4Addr, u16) = (REMOTE, 50_123);
/// A port of the pool, which is kept.
const PORT: u16 = 20_500;

/// Has the uplink run XDP: its record has its MAC address, and the containers' veths take what XDP sends.
pub fn switch_on(host: &mut Host) -> Result {
    host.change_device(UPLINK, |device| device.mac = MacAddress { octets: UPLINK_MAC })?;
    let mut endpoints = host.programs.hash::<EndpointKey, Endpoint>(map::ENDPOINTS)?;
    let all: Vec<_> = endpoints.iter().collect::<std::result::Result<_, _>>()?;
    for (key, mut endpoint) in all {
        endpoint.flags |= flags::XDP_TARGET;
        endpoints.insert(key, endpoint, 0)?;
    }
    Ok(())
}

impl Host {
    /// A frame that the world sends, before the kernel has made a packet of its own of it. Counters are those of
    /// `from_uplink`; beside them `xdp` moves for all that is not handed on.
    pub fn driver_receives(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.driver_of(UPLINK, frame)
    }

    fn driver_of(&mut self, device: &str, frame: &[u8]) -> Result<Outcome> {
        // struct xdp_md (linux/bpf.h, UAPI): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, if_nametoindex(device)?, 0, 0];
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut out = vec![0; frame.len() + GROWTH];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..Default::default()
        };
        let result = self.programs.xdp(program::UPLINK_XDP)?.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        let (verdict, duration) = (verdict(result.return_value), result.duration);

        let mut moved = self.programs.moved()?;
        let xdp = moved.iter().position(|(index, _)| *index == Path::Xdp as u32).map(|at| moved.remove(at).1);
        let (path, drop, counted) = match *moved.as_slice() {
            [] => (None, None, Counter { packets: 0, bytes: 0 }),
            [(index, counted)] if index < Path::COUNT => (Path::from_index(index), None, counted),
            [(index, counted)] => (None, DropReason::from_index(index - Path::COUNT), counted),
            _ => panic!("it moved more than one counter: {moved:?}"),
        };
        let fits = match verdict {
            Verdict::Next => path.is_none() && drop.is_none() && xdp.is_none(),
            Verdict::Drop => drop.is_some() && xdp == Some(counted),
            Verdict::Redirect => path.is_some() && xdp == Some(counted),
        };
        assert!(fits, "it answered {verdict:?} and counted {path:?} {drop:?} {xdp:?}");
        let input = frame.to_vec();
        Ok(Outcome { verdict, path, drop, counted, duration, input, frame: out, next_hop: None })
    }
}

fn verdict(value: u32) -> Verdict {
    match value {
        1 => Verdict::Drop,
        2 => Verdict::Next,
        4 => Verdict::Redirect,
        other => panic!("uplink_xdp answered {other}"),
    }
}

/// A test on a host whose uplink runs XDP.
fn with_xdp(test: impl FnOnce(&mut Host) -> Result + Send) -> Result {
    with_host(|host| {
        switch_on(host)?;
        test(host)
    })
}

/// Has a client and a container talk by a published UDP port, so that their flow is in `flows`.
fn open(host: &mut Host, client: (std::net::Ipv4Addr, u16), port: u16, to: (&Container, u16)) -> Result {
    let request = Frame::udp(client, (HOST, port)).by_router();
    // What opens a flow is not for XDP.
    host.driver_receives(&request.bytes())?.ignored();
    host.world_sends(&request)?.took(Path::PortmapIn);
    // Nor is what only one end has said yet.
    host.driver_receives(&request.bytes())?.ignored();
    let answer = Frame::udp((to.0.address, to.1), client).sent_by(to.0);
    host.container_sends(to.0, &answer)?.took(Path::PortmapOut);
    Ok(())
}

#[test]
fn datagrams_for_a_published_port_byte_by_byte() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        open(host, CLIENT, 53, (&A, 5353))?;
        let request = || Frame::udp(CLIENT, (HOST, 53)).by_router();
        for frame in [
            request(),
            request().without_checksum(),
            request().payload(b""),
            request().ttl(2),
            request().ttl(255).dscp_and_ecn(46, 3),
        ] {
            let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop();
            host.driver_receives(&frame.bytes())?.redirected(Path::PortmapIn, &expected);
            // And the same by tc.
            host.world_sends(&frame)?.redirected(Path::PortmapIn, &expected);
        }
        // Every length up to what fits, with every sum: odd and even ones, and each part that is added by itself.
        for length in (0..600).chain(1000..1100).chain(1400..=1472) {
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            let frame = request().payload(&payload);
            let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop();
            host.driver_receives(&frame.bytes())?.redirected(Path::PortmapIn, &expected);
        }
        // Padding to the shortest Ethernet frame is not covered.
        let padded = |frame: &Frame| [frame.bytes(), vec![0xee; 18]].concat();
        let frame = request().payload(b"");
        let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop();
        host.driver_receives(&padded(&frame))?.redirected_bytes(Path::PortmapIn, &padded(&expected));
        assert_eq!((host.confirmed()?.len(), host.unconfirmed()?.len(), host.ports()?.len()), (1, 0, 1));
        Ok(())
    })
}

/// A sum of zero is sent as 0xffff, for 0 says that there is none (RFC 768).
#[test]
fn a_checksum_never_becomes_absent() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        open(host, CLIENT, 53, (&A, 5353))?;
        let mut zeros = 0;
        for word in 0..=u16::MAX {
            let frame = Frame::udp(CLIENT, (HOST, 53)).payload(&word.to_be_bytes()).by_router();
            let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop().bytes();
            if expected[40..42] == [0xff, 0xff] {
                zeros += 1;
                host.driver_receives(&frame.bytes())?.redirected_bytes(Path::PortmapIn, &expected);
            }
        }
        assert!(zeros > 0);
        Ok(())
    })
}

#[test]
fn answers_to_a_masqueraded_container() -> Result {
    with_xdp(|host| {
        let (inside, remote) = ((A.address, PORT), (REMOTE, 443));
        host.container_sends(&A, &Frame::udp(inside, remote).sent_by(&A))?.took(Path::MasqueradeOut);
        let answer = Frame::udp(remote, (HOST, PORT)).payload(b"odd").by_router();
        let expected = answer.clone().destination(inside).routed_to(&A).hop();
        // The first answer confirms the flow, which is tc's.
        host.driver_receives(&answer.bytes())?.ignored();
        host.world_sends(&answer)?.redirected(Path::MasqueradeIn, &expected);
        host.driver_receives(&answer.bytes())?.redirected(Path::MasqueradeIn, &expected);
        // Another port of the same remote end is nobody the container has sent to.
        let stranger = Frame::udp((REMOTE, 444), (HOST, PORT)).by_router();
        host.driver_receives(&stranger.bytes())?.dropped(DropReason::Filtered);
        host.world_sends(&stranger)?.dropped(DropReason::Filtered);
        Ok(())
    })
}

/// A packet keeps its flow alive, whoever carries it.
#[test]
fn a_flow_that_xdp_carries_does_not_expire() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        open(host, CLIENT, 53, (&A, 5353))?;
        let request = Frame::udp(CLIENT, (HOST, 53)).by_router();
        let old = std::time::Duration::from_secs(299);
        for _ in 0..3 {
            host.age_flows(old)?;
            host.driver_receives(&request.bytes())?.took(Path::PortmapIn);
            host.expire()?;
            assert_eq!(host.confirmed()?.len(), 1);
        }
        // What it leaves to tc has kept nothing alive.
        host.age_flows(old)?;
        let mut wrong = request.bytes();
        wrong[40] ^= 1;
        host.driver_receives(&wrong)?.ignored();
        host.age_flows(old)?;
        host.expire()?;
        assert!(host.confirmed()?.is_empty());
        Ok(())
    })
}

/// A socket of this machine leaves the checksum to the NIC, and XDP cannot see that: what is there is the sum of the
/// pseudo-header alone.
#[test]
fn a_checksum_that_is_not_right_is_left_to_tc() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        open(host, CLIENT, 53, (&A, 5353))?;
        for payload in [&b""[..], b"x", b"xyz", &[9; 300], &[9; 1472]] {
            let bytes = Frame::udp(CLIENT, (HOST, 53)).payload(payload).by_router().bytes();
            let mut partial = bytes.clone();
            let pseudo = [&bytes[26..34], &[0, 17], &bytes[38..40]].concat();
            partial[40..42].copy_from_slice(&crate::outcome::sum(&pseudo).to_be_bytes());
            host.driver_receives(&partial)?.ignored();
            // Each byte counts.
            for at in (34..bytes.len()).step_by(if payload.len() < 10 { 1 } else { 7 }) {
                let mut wrong = bytes.clone();
                wrong[at] ^= 0x04;
                host.driver_receives(&wrong)?.ignored();
            }
            host.driver_receives(&bytes)?.took(Path::PortmapIn);
        }
        Ok(())
    })
}

#[test]
fn what_is_unusual_is_left_to_tc() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        host.publish(TCP, None, 80, (&A, 80))?;
        open(host, CLIENT, 53, (&A, 5353))?;
        let request = || Frame::udp(CLIENT, (HOST, 53)).by_router();
        let error =
            etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
        let quoted = &Frame::udp((HOST, 53), CLIENT).bytes()[14..];
        for frame in [
            request().ttl(1),
            request().ttl(0),
            request().options(&[1, 1, 1, 0]),
            request().fragment(0, true),
            request().fragment(10, false),
            request().macs(ROUTER_MAC, [0xff; 6]),
            request().macs(ROUTER_MAC, B.mac),
            // Longer than the container's MTU.
            request().payload(&[0; 1473]),
            request().payload(&[0; 2100]),
            Frame::icmp(error, REMOTE, HOST).payload(quoted).by_router(),
            Frame::echo_request(REMOTE, HOST, 7).by_router(),
            Frame::ip(IpNumber::GRE, REMOTE, HOST).by_router(),
            Frame::udp(CLIENT, (HOST, 54)).by_router(),
            Frame::udp(CLIENT, (REMOTE_2, 53)).by_router(),
            Frame::syn(CLIENT, (HOST, 80)).by_router(),
        ] {
            host.driver_receives(&frame.bytes())?.ignored();
        }
        let bytes = request().bytes();
        for length in 14..bytes.len() {
            host.driver_receives(&bytes[..length])?.ignored();
        }
        // A tag in front of it.
        let tagged = [&bytes[..12], &[0x81, 0x00, 0, 5], &bytes[12..]].concat();
        host.driver_receives(&tagged)?.ignored();
        // A length of its own that is not the packet's.
        for length in [0_u16, 7, 8, 19, 21, 0xffff] {
            let mut wrong = request().without_checksum().bytes();
            wrong[38..40].copy_from_slice(&length.to_be_bytes());
            host.driver_receives(&wrong)?.ignored();
        }
        // TCP, of a flow or not.
        let syn = Frame::syn(CLIENT, (HOST, 80)).by_router();
        host.world_sends(&syn)?.took(Path::PortmapIn);
        let answer = Frame::tcp((A.address, 80), CLIENT).control(|tcp| (tcp.syn, tcp.ack) = (true, true));
        host.container_sends(&A, &answer.sent_by(&A))?.took(Path::PortmapOut);
        let segment = Frame::tcp(CLIENT, (HOST, 80)).control(|tcp| tcp.ack = true).by_router();
        host.driver_receives(&segment.bytes())?.ignored();
        host.driver_receives(&syn.bytes())?.ignored();
        Ok(())
    })
}

/// Each record that must be there, taken away or changed.
#[test]
fn where_a_record_is_missing_tc_decides() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        open(host, CLIENT, 53, (&A, 5353))?;
        let bytes = Frame::udp(CLIENT, (HOST, 53)).by_router().bytes();
        let served =
            |host: &mut Host| host.driver_receives(&bytes).map(|outcome| outcome.took(Path::PortmapIn));
        served(host)?;

        // The container's end is not ready, or the container is another.
        host.change_endpoint(&A, |endpoint| endpoint.flags &= !flags::XDP_TARGET)?;
        host.driver_receives(&bytes)?.ignored();
        host.change_endpoint(&A, |endpoint| {
            (endpoint.flags, endpoint.epoch) = (endpoint.flags | flags::XDP_TARGET, 7)
        })?;
        host.driver_receives(&bytes)?.ignored();
        host.change_endpoint(&A, |endpoint| endpoint.epoch = A.epoch)?;
        served(host)?;
        host.change_device(A.device, |device| device.mtu = 700)?;
        let of_length =
            |length: usize| Frame::udp(CLIENT, (HOST, 53)).payload(&vec![7; length - 28]).by_router().bytes();
        for (length, fits) in [(576, true), (577, true), (700, true), (701, false)] {
            let outcome = host.driver_receives(&of_length(length))?;
            if fits { outcome.took(Path::PortmapIn) } else { outcome.ignored() }
        }
        host.change_device(A.device, |device| device.mtu = 1500)?;

        // A hairpin flow's far end is a container: on the wire nobody speaks for it.
        let inside = *host.confirmed()?.keys().next().ok_or("no flow")?;
        let flow: Flow = host.programs.hash(map::FLOWS)?.get(&inside, 0)?;
        for kind in [dataplane_common::abi::FlowKind::HAIRPIN, dataplane_common::abi::FlowKind::TURN_BACK, 0]
        {
            host.programs.hash(map::FLOWS)?.insert(inside, Flow { kind, ..flow }, 0)?;
            host.driver_receives(&bytes)?.ignored();
        }
        let outside = dataplane_common::abi::Tuple { local_port: 54, ..flow.outside };
        host.programs.hash(map::FLOWS)?.insert(inside, Flow { outside, ..flow }, 0)?;
        host.driver_receives(&bytes)?.ignored();
        host.programs.hash(map::FLOWS)?.insert(inside, flow, 0)?;
        served(host)?;

        // A device that is no uplink, or not known, or whose MAC address is not.
        host.driver_of(STRANGER, &bytes)?.ignored();
        host.driver_of(A.device, &bytes)?.ignored();
        host.change_device(UPLINK, |device| device.mac = MacAddress { octets: [0; 6] })?;
        host.driver_receives(&bytes)?.ignored();
        switch_on(host)?;
        served(host)?;
        Ok(())
    })
}

/// Dropped as `from_uplink` drops it, and by both for one reason.
#[test]
fn what_nobody_would_hear_of_is_dropped_early() -> Result {
    with_xdp(|host| {
        host.publish(UDP, None, 53, (&A, 5353))?;
        host.publish(TCP, None, 80, (&A, 80))?;
        let claimed = Frame::udp((A.address, PORT), (REMOTE, 443)).sent_by(&A);
        host.container_sends(&A, &claimed)?.took(Path::MasqueradeOut);
        let foreign = [vxlan_header(MESH.vni).as_slice(), &inner().bytes()].concat();
        let stranger = Frame::udp((REMOTE, 50_000), (HOST, VXLAN_PORT)).payload(&foreign).by_router();
        for (frame, reason) in [
            (Frame::syn(CLIENT, (A.address, 80)), DropReason::DirectRouting),
            (Frame::udp(CLIENT, (A.address, 5353)), DropReason::DirectRouting),
            (Frame::echo_request(REMOTE, A.address, 1), DropReason::DirectRouting),
            (Frame::ip(IpNumber::GRE, REMOTE, C.address), DropReason::DirectRouting),
            (Frame::udp(CLIENT, (HOST, PORT)), DropReason::Filtered),
            (Frame::udp((B.address, 9), (HOST, 53)), DropReason::SpoofedAddress),
            (Frame::syn((HOST, 9), (HOST, 80)), DropReason::SpoofedAddress),
            (Frame::udp(([127, 0, 0, 1].into(), 9), (HOST, PORT)), DropReason::SpoofedAddress),
            (Frame::udp(CLIENT, (A.network.gateway, 53)), DropReason::DirectRouting),
            (stranger, DropReason::UnknownPeer),
            (Frame::udp((PEER, 1), (HOST, VXLAN_PORT)).payload(b"short"), DropReason::BadEncapsulation),
        ] {
            let frame = frame.by_router();
            host.driver_receives(&frame.bytes())?.dropped(reason);
            host.world_sends(&frame)?.dropped(reason);
        }
        // Its sender is told, so it is not dropped here: a segment amid a connection is not asked about.
        let amid = Frame::tcp(CLIENT, (A.address, 80)).control(|tcp| tcp.ack = true).by_router();
        host.driver_receives(&amid.bytes())?.ignored();
        // Forwarding is off.
        open(host, CLIENT, 53, (&A, 5353))?;
        host.change_forwarding(&A, flags::FORWARDING, 0)?;
        let request = Frame::udp(CLIENT, (HOST, 53)).by_router();
        host.driver_receives(&request.bytes())?.dropped(DropReason::ForwardingDisabled);
        host.world_sends(&request)?.dropped(DropReason::ForwardingDisabled);
        Ok(())
    })
}

#[test]
fn datagrams_out_of_a_tunnel() -> Result {
    with_xdp(|host| {
        for inner in [
            inner(),
            inner().ttl(1),
            inner().payload(b""),
            inner().payload(&[7; 1422]),
            inner().without_checksum(),
            inner().dscp_and_ecn(46, 3),
        ] {
            let datagram = outer(&inner.bytes());
            host.driver_receives(&datagram.bytes())?.redirected(Path::Decapsulate, &inner);
            host.world_sends(&datagram)?.redirected(Path::Decapsulate, &inner);
        }
        assert!(host.is_empty()?, "decapsulation keeps no state");
        Ok(())
    })
}

#[test]
fn what_is_unusual_in_a_tunnel_is_left_to_tc() -> Result {
    with_xdp(|host| {
        let wrong_sum = {
            let mut bytes = inner().bytes();
            bytes[40] ^= 1;
            bytes
        };
        for inner in [
            wrong_sum,
            inner().options(&[1; 4]).bytes(),
            inner().fragment(0, true).bytes(),
            inner().fragment(10, false).bytes(),
            Frame::syn((FAR, 80), (M.address, 4000)).macs(FAR_MAC, M.mac).bytes(),
            Frame::echo_request(FAR, M.address, 3).macs(FAR_MAC, M.mac).bytes(),
            inner().destination((FAR, 4000)).bytes(),
            inner().macs(FAR_MAC, [0xff; 6]).bytes(),
        ] {
            host.driver_receives(&outer(&inner).bytes())?.ignored();
        }
        let datagram = outer(&inner().bytes());
        let summed = Frame::udp((PEER, 1), (HOST, VXLAN_PORT)).payload(&datagram.payload).by_router();
        host.driver_receives(&summed.bytes())?.ignored();
        host.driver_receives(&datagram.clone().dscp_and_ecn(0, 3).bytes())?.ignored();
        host.driver_receives(&datagram.clone().fragment(0, true).bytes())?.ignored();
        host.change_endpoint(&M, |endpoint| endpoint.flags &= !flags::XDP_TARGET)?;
        host.driver_receives(&datagram.bytes())?.ignored();
        switch_on(host)?;
        host.driver_receives(&datagram.bytes())?.took(Path::Decapsulate);
        host.change_endpoint(&M, |endpoint| endpoint.flags &= !flags::INTER_CONTAINER)?;
        host.driver_receives(&datagram.bytes())?.dropped(DropReason::InterContainerDisabled);
        Ok(())
    })
}

#[test]
fn the_same_by_ipv6() -> Result {
    use ipv6::{
        frame::{DESTINATION_OPTIONS, Frame},
        topology::{A, HOST, REMOTE, publish},
    };
    ipv6::topology::with_host(|host| {
        switch_on(host)?;
        publish(host, UDP, 53, (&A, 5353))?;
        let client = (REMOTE, 50_123);
        let request = || Frame::udp(client, (HOST, 53)).by_router();
        host.driver_receives(&request().bytes())?.ignored();
        host.world_sends_bytes(&request().bytes())?.took(Path::PortmapIn);
        let answer = Frame::udp((A.address, 5353), client).sent_by(&A);
        host.container_sends_bytes(A.container, &answer.bytes())?.took(Path::PortmapOut);
        for frame in [request(), request().payload(b"odd"), request().payload(&[5; 1452])] {
            let expected = frame.clone().destination((A.address, 5353)).routed_to(&A).hop().bytes();
            host.driver_receives(&frame.bytes())?.redirected_bytes(Path::PortmapIn, &expected);
            host.world_sends_bytes(&frame.bytes())?.redirected_bytes(Path::PortmapIn, &expected);
        }
        let mut without = request().bytes();
        without[60..62].fill(0);
        let mut wrong = request().bytes();
        wrong[61] ^= 1;
        let extended = request().extension(DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]).bytes();
        for bytes in [without, wrong, extended, request().payload(&[5; 1453]).bytes()] {
            host.driver_receives(&bytes)?.ignored();
        }
        let direct = Frame::udp(client, (A.address, 5353)).by_router().bytes();
        host.driver_receives(&direct)?.dropped(DropReason::DirectRouting);
        host.world_sends_bytes(&direct)?.dropped(DropReason::DirectRouting);
        Ok(())
    })
}

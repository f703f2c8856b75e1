//! Packets that are cut short at every byte, and packets whose headers contradict one another.

use dataplane_common::abi::{DropReason, Path, program};

use crate::{
    Result,
    frames::{Frame, arp},
    harness::shortest,
    host::{Host, TCP, UDP, with_host},
    outcome::{Verdict, assert_bytes},
    topology::{A, B, C, Container, FAR, FAR_MAC, HOST, M, REMOTE, UPLINK},
};

/// One frame for each way that from_container knows.
fn ways(host: &mut Host) -> Result<Vec<(&'static Container, Frame)>> {
    host.publish(UDP, None, 53, (&C, 53))?;
    host.publish(TCP, None, 80, (&A, 80))?;
    let a = (A.address, 25_000);
    Ok(vec![
        (&A, Frame::tcp(a, (REMOTE, 443)).sent_by(&A)),
        (&A, Frame::udp(a, (REMOTE, 443)).options(&[1; 8]).sent_by(&A)),
        (&A, Frame::echo_request(A.address, REMOTE, 9).sent_by(&A)),
        (&A, Frame::tcp(a, (B.address, 443)).options(&[1; 40]).macs(A.mac, B.mac)),
        (&A, Frame::udp(a, (B.address, 443)).macs(A.mac, B.mac)),
        (&A, Frame::echo_reply(A.address, B.address, 9).macs(A.mac, B.mac)),
        (&A, Frame::udp(a, (HOST, 53)).sent_by(&A)),
        (&A, Frame::udp(a, (HOST, 54)).sent_by(&A)),
        (&A, Frame::tcp(a, (HOST, 80)).sent_by(&A)),
        (&M, Frame::udp((M.address, 1), (FAR, 2)).macs(M.mac, FAR_MAC)),
        (&M, Frame::tcp((M.address, 1), (FAR, 2)).macs(M.mac, FAR_MAC)),
    ])
}

/// Where the part of the packet ends that weft must have.
fn needed(frame: &Frame) -> usize {
    frame.bytes().len() - frame.payload.len()
}

/// The IPv4 total length, written over what the frame says. The checksum follows.
fn with_total_length(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    let header = 14 + usize::from(bytes[14] & 0x0f) * 4;
    bytes[16..18].copy_from_slice(&(length as u16).to_be_bytes());
    if let Ok((mut ip, _)) = etherparse::Ipv4Header::from_slice(&bytes[14..]) {
        ip.header_checksum = ip.calc_header_checksum();
        bytes[14..header].copy_from_slice(&ip.to_bytes());
    }
    bytes
}

#[test]
fn what_a_container_sends_cut_short() -> Result {
    with_host(|host| {
        for (container, frame) in ways(host)? {
            let whole = frame.bytes();
            for length in shortest(&whole)..whole.len() {
                // The lengths in the headers are those of the whole.
                host.container_sends_bytes(container, &whole[..length])?.dropped(DropReason::Malformed);
            }
            assert!(host.is_empty()?, "a cut packet has left a record");
        }
        let whole = arp(A.mac, A.mac, A.address, B.address);
        for length in shortest(&whole)..whole.len() {
            host.container_sends_bytes(&A, &whole[..length])?.dropped(DropReason::Malformed);
        }
        host.container_sends_bytes(&A, &whole)?.passed(Path::SlowPath);
        Ok(())
    })
}

/// The IPv4 length agrees with what is there, but the transport header is cut; or it is there, but behind the end that
/// the IPv4 length gives, as padding is.
#[test]
fn transport_headers_cut_short() -> Result {
    with_host(|host| {
        for (container, frame) in ways(host)? {
            let whole = frame.bytes();
            let ip_ends = 14 + frame.ip.header_len();
            for length in ip_ends..needed(&frame) {
                let cut = with_total_length(whole[..length].to_vec(), length - 14);
                host.container_sends_bytes(container, &cut)?.dropped(DropReason::Malformed);
                let padded = with_total_length(whole.clone(), length - 14);
                host.container_sends_bytes(container, &padded)?.dropped(DropReason::Malformed);
            }
            for total in 0..ip_ends - 14 {
                let lying = with_total_length(whole.clone(), total);
                host.container_sends_bytes(container, &lying)?.dropped(DropReason::Malformed);
            }
            assert!(host.is_empty()?, "a cut packet has left a record");
            let verdict = host.container_sends_bytes(container, &whole)?.verdict;
            assert_ne!(verdict, Verdict::Drop, "the whole frame is good");
            host.age_flows(std::time::Duration::from_secs(7441))?;
            host.age_mappings(std::time::Duration::from_secs(7441))?;
            host.expire()?;
            host.age_mappings(std::time::Duration::from_secs(7441))?;
            host.expire()?;
        }
        Ok(())
    })
}

#[test]
fn version_and_header_length() -> Result {
    with_host(|host| {
        for (container, frame) in ways(host)? {
            let whole = frame.bytes();
            for first in 0..=u8::MAX {
                let valid = first == whole[14];
                let (version, words) = (first >> 4, first & 0x0f);
                // Another header length is no contradiction as such: the options may be there.
                if valid || version == 4 && words >= 5 {
                    continue;
                }
                let mut wrong = whole.clone();
                wrong[14] = first;
                host.container_sends_bytes(container, &wrong)?.dropped(DropReason::Malformed);
            }
        }
        Ok(())
    })
}

/// What the world sends is the host's to judge: not weft's at any length, and never harmful.
#[test]
fn what_the_world_sends_cut_short() -> Result {
    with_host(|host| {
        host.publish(UDP, None, 53, (&A, 53))?;
        host.publish(TCP, None, 80, (&A, 80))?;
        let out = Frame::udp((A.address, 25_000), (REMOTE, 443)).sent_by(&A);
        host.container_sends(&A, &out)?.took(Path::MasqueradeOut);
        for frame in [
            Frame::udp((REMOTE, 443), (HOST, 25_000)),
            Frame::udp((REMOTE, 9), (HOST, 53)).options(&[1; 4]),
            Frame::syn((REMOTE, 9), (HOST, 80)).payload(b"fast open"),
            Frame::echo_reply(REMOTE, HOST, 7),
        ] {
            let frame = frame.by_router();
            let whole = frame.bytes();
            for length in shortest(&whole)..whole.len() {
                host.world_sends_bytes(&whole[..length])?.passed(Path::NotOurs);
            }
            for total in 0..needed(&frame) - 14 {
                host.world_sends_bytes(&with_total_length(whole.clone(), total))?.passed(Path::NotOurs);
            }
        }
        assert_eq!(host.ports()?.len(), 2, "a cut packet has left a record");
        Ok(())
    })
}

#[test]
fn what_leaves_or_is_delivered_cut_short() -> Result {
    with_host(|host| {
        let leaving = Frame::udp((A.address, 1), (REMOTE, 2)).sent_by(&A).bytes();
        for length in shortest(&leaving)..leaving.len() {
            host.programs
                .run(program::TO_UPLINK, &leaving[..length], UPLINK)?
                .outcome()?
                .dropped(DropReason::UntranslatedSource);
        }
        let delivered = Frame::udp((REMOTE, 1), (A.address, 2)).routed_to(&A).bytes();
        for length in shortest(&delivered)..delivered.len() {
            host.delivery(&A, &delivered[..length])?.outcome()?.passed(Path::Host);
        }
        Ok(())
    })
}

/// Beyond 64 KiB the IPv4 length is 0 (BIG TCP); of a packet that no NIC will cut that is a contradiction.
#[test]
fn length_zero_is_for_segments() -> Result {
    with_host(|host| {
        let frame = Frame::tcp((A.address, 1), (B.address, 2)).payload(&[1; 2800]).macs(A.mac, B.mac);
        let bytes = with_total_length(frame.bytes(), 0);
        host.container_sends_bytes(&A, &bytes)?.dropped(DropReason::Malformed);
        let outcome = host.programs.run(program::FROM_CONTAINER, &bytes, A.device)?.gso(1400, 2).outcome()?;
        assert_bytes(&outcome.on_path(Path::Bridge).frame, &bytes);
        Ok(())
    })
}

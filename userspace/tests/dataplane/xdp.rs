//! The XDP program of uplinks.

use anyhow::Result;
use weft::dataplane::{self, Ensured, XdpError};

use crate::place::{Place, in_namespace, run, veth};

/// What `ip` shows of programs in a driver, or in its place.
fn shown(device: &str) -> Result<(bool, bool)> {
    let text = run(&format!("ip -details link show dev {device}"))?;
    Ok((text.contains("prog/xdp"), text.contains("xdpgeneric")))
}

#[test]
fn a_link_lives_with_its_pin() -> Result<()> {
    in_namespace(|| {
        let place = Place::new()?;
        let ifindex = veth("a", "b")?;
        let first = place.open()?;
        assert_eq!(first.ensure_xdp(ifindex)?, Ensured::Attached);
        assert_eq!(first.ensure_xdp(ifindex)?, Ensured::Unchanged);
        let before = first.attached()?;
        assert_eq!((before.len(), before[0].program, before[0].ifindex), (1, "uplink_xdp", Some(ifindex)));
        assert!(before[0].live && before[0].current);
        drop(first);
        assert_eq!(shown("a")?, (true, false));

        // A successor replaces the program in place.
        let second = place.open()?;
        assert_eq!(second.ensure_xdp(ifindex)?, Ensured::Updated);
        let after = second.attached()?;
        assert_eq!(after[0].link_id, before[0].link_id);
        assert_ne!(after[0].program_id, before[0].program_id);

        // Detached behind its back.
        run(&format!("bpftool link detach id {}", after[0].link_id))?;
        assert!(!second.attached()?[0].live);
        assert_eq!(second.ensure_xdp(ifindex)?, Ensured::Repaired);
        assert_eq!(shown("a")?, (true, false));

        assert!(second.detach_xdp(ifindex)? && !second.detach_xdp(ifindex)?);
        assert_eq!(shown("a")?, (false, false));
        assert_eq!(second.ensure_xdp(ifindex)?, Ensured::Attached);
        // As one of all that are on a device.
        assert_eq!(second.detach(ifindex)?, 1);
        assert_eq!(second.ensure_xdp(ifindex)?, Ensured::Attached);
        drop(second);
        assert_eq!(dataplane::teardown(&place.options.bpf_dir)?.links, 1);
        assert_eq!(shown("a")?, (false, false));
        Ok(())
    })
}

/// A driver that has none, a device that has another's, and one that does not want it now: never generic mode.
#[test]
fn a_refusal_is_a_reason() -> Result<()> {
    in_namespace(|| {
        let (place, neighbour) = (Place::new()?, Place::new()?);
        let (ours, other) = (place.open()?, neighbour.open()?);
        let ifindex = veth("a", "b")?;
        run("ip link add br0 type bridge")?;
        let bridge = nix::net::if_::if_nametoindex("br0")?;
        assert!(matches!(ours.ensure_xdp(bridge), Err(XdpError::NotSupported)));
        assert_eq!(shown("br0")?, (false, false));

        other.ensure_xdp(ifindex)?;
        assert!(matches!(ours.ensure_xdp(ifindex), Err(XdpError::Occupied)));
        assert!(!ours.detach_xdp(ifindex)?, "the other's");
        other.detach_xdp(ifindex)?;

        run("ip link set dev a mtu 9000")?;
        run("ip link set dev b mtu 9000")?;
        let refused = ours.ensure_xdp(ifindex);
        assert!(matches!(&refused, Err(XdpError::Refused(_))), "{refused:?}");
        assert_eq!(shown("a")?, (false, false));
        run("ip link set dev b mtu 1500")?;
        run("ip link set dev a mtu 1500")?;
        assert_eq!(ours.ensure_xdp(ifindex)?, Ensured::Attached);
        assert!(ours.ensure_xdp(4711).is_err());
        Ok(())
    })
}

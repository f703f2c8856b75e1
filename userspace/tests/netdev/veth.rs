//! veth pairs into containers.

use std::time::Instant;

use anyhow::{Context, Result};
use weft::{
    model::MacAddress,
    netdev::{BridgeSpec, LinkKind, Netlink, Outcome, Route, VethSpec, driver},
};

use crate::world::{Container, device, ensure_route, in_fresh_namespace, json, run};

async fn bridge(netlink: &Netlink) -> Result<u32> {
    let spec = BridgeSpec {
        name: "weft0".into(),
        alias: "weft network shop".into(),
        mac_address: MacAddress([2, 0x42, 10, 10, 0, 1]),
        mtu: 1450,
    };
    Ok(netlink.ensure_bridge(&spec).await?.ifindex)
}

fn veth(bridge: u32) -> VethSpec {
    VethSpec {
        name: "weftweb0".into(),
        alias: "weft endpoint web shop".into(),
        bridge,
        mtu: 1450,
        isolated: false,
        container_name: "eth0".into(),
        container_mac_address: MacAddress([2, 0x42, 10, 10, 0, 10]),
        gso_max_size: Some(65_000),
        ipv6: false,
        takes_xdp: false,
        up: true,
    }
}

#[test]
fn a_pair_is_made_and_every_part_mended() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        let container = Container::new()?;
        let (namespace, inside) = container.open().await?;
        let spec = veth(bridge);
        assert_eq!(netlink.namespace_id(&namespace).await?, None);

        let made = netlink.ensure_veth(&spec, &namespace, &inside).await?;
        assert_eq!(made.outcome, Outcome::Created);
        let host = device("ip -j -d link show dev weftweb0")?;
        assert_eq!((&host["master"], &host["mtu"]), (&"weft0".into(), &1450.into()));
        assert_eq!((&host["ifalias"], &host["ifindex"]), (&spec.alias.as_str().into(), &made.ifindex.into()));
        let inner = container.device("eth0")?;
        assert_eq!((&inner["address"], &inner["mtu"]), (&"02:42:0a:0a:00:0a".into(), &1450.into()));
        assert_eq!(inner["gso_max_size"], 65_000);
        assert_eq!(inner["ifindex"], made.container_ifindex);
        for end in [&host, &inner] {
            assert!(end["flags"].to_string().contains("LOWER_UP"), "{end}");
        }
        let again = netlink.ensure_veth(&spec, &namespace, &inside).await?;
        assert_eq!((again.ifindex, again.outcome), (made.ifindex, Outcome::Unchanged));
        let link = inside.link("eth0").await?.context("eth0")?;
        assert_eq!((link.gso_max_size, link.gso_ipv4_max_size), (Some(65_000), Some(65_000)));
        let LinkKind::Veth(Some(peer)) = netlink.link("weftweb0").await?.context("weftweb0")?.kind else {
            panic!("no veth")
        };
        assert_eq!(peer.namespace_id, netlink.namespace_id(&namespace).await?);
        assert!(peer.namespace_id.is_some());

        for breakage in [
            "ip link set weftweb0 down".to_owned(),
            "ip link set weftweb0 nomaster".into(),
            "ip link set weftweb0 mtu 1400".into(),
            "bridge link set dev weftweb0 isolated on".into(),
            "bridge link set dev weftweb0 hairpin on".into(),
            "bridge link set dev weftweb0 learning off".into(),
            format!("ip -n {} link set eth0 down", container.name),
            format!("ip -n {} link set eth0 mtu 1300", container.name),
            format!("ip -n {} link set eth0 address 02:00:00:00:00:01", container.name),
            format!("ip -n {} link set eth0 gso_max_size 65536", container.name),
            format!("ip -n {} link set eth0 name other9", container.name),
        ] {
            run(&breakage)?;
            let mended = netlink.ensure_veth(&spec, &namespace, &inside).await?;
            assert_eq!((mended.ifindex, mended.outcome), (made.ifindex, Outcome::Changed), "{breakage}");
            let quiet = netlink.ensure_veth(&spec, &namespace, &inside).await?;
            assert_eq!(quiet.outcome, Outcome::Unchanged, "{breakage}");
        }
        let isolated = VethSpec { isolated: true, gso_max_size: None, ..spec.clone() };
        assert_eq!(netlink.ensure_veth(&isolated, &namespace, &inside).await?.outcome, Outcome::Changed);
        assert_eq!(container.device("eth0")?["gso_max_size"], 65_536);
        assert_eq!(json("bridge -j -d link show dev weftweb0")?[0]["isolated"], true);

        // Removed from inside the container, or from outside: both ends go, and come back.
        container.ip("link del eth0")?;
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Created);
        assert!(netlink.remove_link("weftweb0", &spec.alias).await?);
        assert!(inside.link("eth0").await?.is_none());
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Created);

        // A container of the same name that was made anew has another namespace.
        let other = Container::new()?;
        let (other_namespace, other_inside) = other.open().await?;
        let moved = netlink.ensure_veth(&spec, &other_namespace, &other_inside).await?;
        assert_eq!(moved.outcome, Outcome::Created);
        assert!(inside.link("eth0").await?.is_none());
        assert!(other_inside.link("eth0").await?.is_some());
        Ok(())
    })
}

#[test]
fn the_inside_of_a_container_is_made_and_mended() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        netlink.ensure_address(bridge, "10.10.0.1/24".parse()?).await?;
        let container = Container::new()?;
        let (namespace, inside) = container.open().await?;
        assert!(inside.ensure_loopback_up().await? && !inside.ensure_loopback_up().await?);
        let eth0 = netlink.ensure_veth(&veth(bridge), &namespace, &inside).await?.container_ifindex;
        let address = "10.10.0.10/24".parse()?;
        let default_route = Route::default_by("10.10.0.1".parse()?, eth0);
        assert!(inside.ensure_address(eth0, address).await?);
        assert!(ensure_route(&inside, &default_route).await?);
        // The kernel tells a bridge of a carrier up to a second late (linkwatch_event), so the first ones may be lost.
        let ping = format!("ip netns exec {} ping -c 1 -W 1 10.10.0.1", container.name);
        let reach = || (0..4).find_map(|_| run(&ping).ok()).context("no answer to four pings");
        reach()?;
        for breakage in [
            "address del 10.10.0.10/24 dev eth0",
            "route del default",
            "link set eth0 down",
            "link set lo down",
        ] {
            container.ip(breakage)?;
            let mended = [
                inside.ensure_loopback_up().await?,
                inside.ensure_link_up("eth0").await?,
                inside.ensure_address(eth0, address).await?,
                ensure_route(&inside, &default_route).await?,
            ];
            assert!(mended.contains(&true), "{breakage}");
            reach().with_context(|| format!("after {breakage}"))?;
        }
        Ok(())
    })
}

#[test]
fn what_is_not_ours_stays() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        let container = Container::new()?;
        let (namespace, inside) = container.open().await?;
        let spec = veth(bridge);
        container.ip("link add eth0 type bridge")?;
        let error =
            netlink.ensure_veth(&spec, &namespace, &inside).await.err().context("took eth0")?.to_string();
        assert!(
            error.contains("eth0")
                && error.contains(&container.name)
                && error.contains("bridge without alias"),
            "{error}"
        );
        assert!(netlink.link("weftweb0").await?.is_none());
        container.ip("link del eth0")?;

        run("ip link add weftweb0 type veth peer name elsewhere")?;
        run("ip link set weftweb0 alias somebody up")?;
        let error =
            netlink.ensure_veth(&spec, &namespace, &inside).await.err().context("took it")?.to_string();
        assert!(error.contains("weftweb0") && error.contains("somebody"), "{error}");
        assert!(netlink.link("elsewhere").await?.is_some());
        run("ip link del weftweb0")?;

        // What a daemon leaves that is killed right after creating the pair.
        run(&format!("ip link add weftweb0 master weft0 type veth peer name eth0 netns {}", container.name))?;
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Changed);
        assert_eq!(device("ip -j link show dev weftweb0")?["ifalias"], "weft endpoint web shop");
        assert_eq!(container.device("eth0")?["address"], "02:42:0a:0a:00:0a");

        let missing = veth(9999);
        netlink.remove_link("weftweb0", &spec.alias).await?;
        let error =
            netlink.ensure_veth(&missing, &namespace, &inside).await.err().context("no bridge")?.to_string();
        assert!(error.contains("weftweb0"), "{error}");
        Ok(())
    })
}

/// Prints how long it takes; a machine may be slow.
#[test]
fn what_xdp_sends_is_taken() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        let container = Container::new()?;
        let (namespace, inside) = container.open().await?;
        let gro = || -> Result<bool> {
            let shown = run(&format!("ip netns exec {} ethtool -k eth0", container.name))?;
            Ok(shown.contains("generic-receive-offload: on"))
        };
        let (plain, spec) = (veth(bridge), VethSpec { takes_xdp: true, ..veth(bridge) });
        netlink.ensure_veth(&plain, &namespace, &inside).await?;
        assert!(!gro()?, "it is not asked for");
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Changed);
        assert!(gro()?);
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Unchanged);
        // Switched off in the container.
        run(&format!("ip netns exec {} ethtool -K eth0 gro off", container.name))?;
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Changed);
        assert!(gro()?);
        // And in one that is new.
        assert!(netlink.remove_link("weftweb0", &spec.alias).await?);
        assert_eq!(netlink.ensure_veth(&spec, &namespace, &inside).await?.outcome, Outcome::Created);
        assert!(gro()?);
        assert_eq!(driver("weftweb0")?, "veth");
        assert!(driver("nowhere0").is_err());
        Ok(())
    })
}

#[test]
fn five_hundred_pairs() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        let container = Container::new()?;
        let (namespace, inside) = container.open().await?;
        let spec = |number: u16| {
            let [high, low] = number.to_be_bytes();
            VethSpec {
                name: format!("weftc{number}"),
                container_name: format!("eth{number}"),
                container_mac_address: MacAddress([2, 0x42, 10, 10, high, low]),
                ..veth(bridge)
            }
        };
        let start = Instant::now();
        for number in 0..500 {
            assert_eq!(
                netlink.ensure_veth(&spec(number), &namespace, &inside).await?.outcome,
                Outcome::Created
            );
        }
        println!("500 pairs created in {:?}", start.elapsed());
        let start = Instant::now();
        let links = netlink.links().await?;
        println!("list of {} devices in {:?}", links.len(), start.elapsed());
        for part in ["addresses", "routes", "neighbours"] {
            let start = Instant::now();
            let count = match part {
                "addresses" => netlink.addresses().await?.len(),
                "routes" => netlink.routes().await?.len(),
                _ => netlink.neighbours().await?.len(),
            };
            println!("  {count} {part} in {:?}", start.elapsed());
        }
        let start = Instant::now();
        let inner = inside.links().await?;
        println!("list of {} devices inside in {:?}", inner.len(), start.elapsed());
        for number in 0..500 {
            let spec = spec(number);
            assert!(links.iter().any(|link| spec.is_satisfied_by(link)), "{number}");
            assert!(inner.iter().any(|link| spec.is_satisfied_by_container_end(link)), "{number}");
        }
        let start = Instant::now();
        for number in 0..500 {
            assert_eq!(
                netlink.ensure_veth(&spec(number), &namespace, &inside).await?.outcome,
                Outcome::Unchanged
            );
        }
        println!("500 pairs found unchanged one by one in {:?}", start.elapsed());
        let start = Instant::now();
        for number in 0..100_u32 {
            let (_, inside) = container.open().await?;
            assert!(inside.link("eth1").await?.is_some(), "{number}");
        }
        println!("100 connections into a container in {:?}", start.elapsed());
        Ok(())
    })
}

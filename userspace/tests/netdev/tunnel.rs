//! vxlan devices, forwarding entries and neighbours.

use std::net::IpAddr;

use anyhow::{Context, Result};
use weft::{
    model::MacAddress,
    netdev::{BridgeSpec, Netlink, Outcome, VxlanSpec},
};

use crate::world::{device, in_fresh_namespace, json, run};

const MAC: MacAddress = MacAddress([2, 0x42, 10, 20, 0, 5]);

async fn bridge(netlink: &Netlink) -> Result<u32> {
    let spec = BridgeSpec {
        name: "weft0".into(),
        alias: "weft network mesh".into(),
        mac_address: MacAddress([2, 0x42, 10, 20, 0, 1]),
        mtu: 1450,
    };
    Ok(netlink.ensure_bridge(&spec).await?.ifindex)
}

fn vxlan(bridge: u32, local: &str) -> Result<VxlanSpec> {
    Ok(VxlanSpec {
        name: "weftvx0".into(),
        alias: "weft overlay mesh".into(),
        vni: 4097,
        port: 4789,
        local: local.parse()?,
        mtu: 1450,
        bridge,
        isolated: false,
    })
}

#[test]
fn a_vxlan_device_is_made_and_mended() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        for (local, attribute) in [("192.0.2.1", "local"), ("2001:db8::1", "local6")] {
            let spec = vxlan(bridge, local)?;
            let made = netlink.ensure_vxlan(&spec).await?;
            assert_eq!(made.outcome, Outcome::Created);
            assert_eq!(netlink.ensure_vxlan(&spec).await?.outcome, Outcome::Unchanged);
            let seen = device("ip -j -d link show dev weftvx0")?;
            let data = &seen["linkinfo"]["info_data"];
            assert_eq!((&data["id"], &data["port"], &data["ttl"]), (&4097.into(), &4789.into(), &64.into()));
            assert_eq!((&data["learning"], &data["udp_csum"]), (&false.into(), &false.into()));
            assert_eq!(data[attribute], local);
            assert_eq!((&seen["mtu"], &seen["master"]), (&1450.into(), &"weft0".into()));
            assert_eq!(seen["ifalias"], "weft overlay mesh");
            let port = &json("bridge -j -d link show dev weftvx0")?[0];
            assert_eq!((&port["learning"], &port["neigh_suppress"]), (&false.into(), &true.into()));

            for breakage in [
                "ip link set weftvx0 down",
                "ip link set weftvx0 mtu 1400",
                "ip link set weftvx0 nomaster",
                "ip link set weftvx0 type vxlan id 4097 learning",
                "bridge link set dev weftvx0 learning on",
                "bridge link set dev weftvx0 neigh_suppress off",
            ] {
                run(breakage)?;
                let mended = netlink.ensure_vxlan(&spec).await?;
                assert_eq!((mended.ifindex, mended.outcome), (made.ifindex, Outcome::Changed), "{breakage}");
                assert_eq!(netlink.ensure_vxlan(&spec).await?.outcome, Outcome::Unchanged, "{breakage}");
            }
            // Another port needs another device.
            let other = VxlanSpec { port: 8472, ..spec.clone() };
            assert_eq!(netlink.ensure_vxlan(&other).await?.outcome, Outcome::Created);
            assert_eq!(device("ip -j -d link show dev weftvx0")?["linkinfo"]["info_data"]["port"], 8472);
            assert!(netlink.remove_link("weftvx0", &spec.alias).await?);
        }
        // Another tunnel address of the same family does not.
        let spec = vxlan(bridge, "192.0.2.1")?;
        netlink.ensure_vxlan(&spec).await?;
        let moved = VxlanSpec { local: "192.0.2.9".parse()?, ..spec.clone() };
        assert_eq!(netlink.ensure_vxlan(&moved).await?.outcome, Outcome::Changed);
        assert_eq!(netlink.ensure_vxlan(&moved).await?.outcome, Outcome::Unchanged);

        // The identifier is taken by somebody else: the kernel's words reach the user.
        netlink.remove_link("weftvx0", &spec.alias).await?;
        run("ip link add stranger type vxlan id 4097 dstport 4789")?;
        let error = netlink.ensure_vxlan(&spec).await.err().context("made it twice")?.to_string();
        assert!(
            error.contains("weftvx0") && error.contains("VNI 4097") && error.contains("already exists"),
            "{error}"
        );
        run("ip link add weftvx0 type bridge")?;
        assert!(
            netlink.ensure_vxlan(&spec).await.is_err_and(|error| error.to_string().contains("not weft's"))
        );
        Ok(())
    })
}

#[test]
fn forwarding_entries_and_neighbours() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let bridge = bridge(&netlink).await?;
        for (local, peers) in
            [("192.0.2.1", ["192.0.2.2", "192.0.2.3"]), ("2001:db8::1", ["2001:db8::2", "2001:db8::3"])]
        {
            let spec = vxlan(bridge, local)?;
            let device = netlink.ensure_vxlan(&spec).await?.ifindex;
            let peers: [IpAddr; 2] = [peers[0].parse()?, peers[1].parse()?];
            for _ in 0..2 {
                for peer in peers {
                    netlink.ensure_vxlan_flood(device, peer).await?;
                }
                netlink.ensure_vxlan_forwarding(device, MAC, peers[1]).await?;
                netlink.ensure_vxlan_forwarding(device, MAC, peers[0]).await?;
            }
            // Learned by nobody, aged by nobody, and not the bridge's own address.
            let seen = json("bridge -j fdb show dev weftvx0")?;
            let of = |mac: &str| seen.iter().filter(|entry| entry["mac"] == mac).collect::<Vec<_>>();
            assert_eq!(of("00:00:00:00:00:00").len(), 2, "{seen:?}");
            let known = of(&MAC.to_string());
            assert_eq!(known.len(), 2, "{seen:?}");
            let own =
                known.iter().find(|entry| entry["dst"].is_string()).context("no entry of the device")?;
            assert_eq!(own["dst"], peers[0].to_string());
            let bridged =
                known.iter().find(|entry| entry["master"] == "weft0").context("no entry of the bridge")?;
            assert_eq!((&own["state"], &bridged["state"]), (&"static".into(), &"static".into()));

            let entries = netlink.forwarding_entries(device).await?;
            let floods: Vec<_> = entries
                .iter()
                .filter(|entry| entry.ifindex == device && entry.mac_address == MacAddress([0; 6]))
                .filter_map(|entry| entry.destination)
                .collect();
            assert_eq!(floods.len(), 2);
            assert!(peers.iter().all(|peer| floods.contains(peer)));
            let of_mac: Vec<_> = entries.iter().filter(|entry| entry.mac_address == MAC).collect();
            assert_eq!(of_mac.len(), 2, "{of_mac:?}");
            assert!(of_mac.iter().all(|entry| entry.permanent && entry.ifindex == device));
            assert!(of_mac.iter().any(|entry| entry.bridge == Some(bridge) && entry.destination.is_none()));
            assert!(of_mac.iter().any(|entry| entry.bridge.is_none() && entry.destination == Some(peers[0])));

            // One of the two tables lost its entry: removal does the rest.
            run(&format!("bridge fdb del {MAC} dev weftvx0 master"))?;
            assert!(netlink.remove_vxlan_forwarding(device, MAC).await?);
            assert!(!netlink.remove_vxlan_forwarding(device, MAC).await?);
            netlink.remove_vxlan_flood(device, peers[0]).await?;
            netlink.remove_vxlan_flood(device, peers[0]).await?;
            let left = netlink.forwarding_entries(device).await?;
            let left: Vec<_> =
                left.iter().filter(|entry| entry.ifindex == device).filter_map(|e| e.destination).collect();
            assert_eq!(left, [peers[1]]);
            netlink.remove_vxlan_flood(device, peers[1]).await?;
            netlink.remove_vxlan_flood(device, peers[1]).await?;
            netlink.remove_link("weftvx0", &spec.alias).await?;
        }

        for address in ["10.20.0.5".parse()?, "fd00:20::5".parse()?] {
            netlink.ensure_neighbour(bridge, address, MacAddress([2, 0, 0, 0, 0, 1])).await?;
            netlink.ensure_neighbour(bridge, address, MAC).await?;
            let found: Vec<_> =
                netlink.neighbours().await?.into_iter().filter(|n| n.address == address).collect();
            assert_eq!(found.len(), 1);
            assert!(found[0].permanent && found[0].mac_address == Some(MAC) && found[0].ifindex == bridge);
            let seen = json(&format!("ip -j neighbour show {address} dev weft0"))?;
            assert_eq!(
                (&seen[0]["lladdr"], &seen[0]["state"][0]),
                (&MAC.to_string().into(), &"PERMANENT".into())
            );
            assert!(netlink.remove_neighbour(bridge, address).await?);
            assert!(!netlink.remove_neighbour(bridge, address).await?);
            assert!(!netlink.remove_neighbour(9999, address).await?);
        }
        Ok(())
    })
}

//! Events.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use weft::netdev::{Change, Event, Monitor, Netlink, Scope, sysctl};

use crate::world::{Container, in_fresh_namespace, run};

/// Waits until an event is as wanted; the other ones are passed over.
async fn expect(monitor: &mut Monitor, what: &str, wanted: impl Fn(Event) -> bool) -> Result<()> {
    let found = async {
        loop {
            if wanted(monitor.next().await?) {
                return anyhow::Ok(());
            }
        }
    };
    timeout(Duration::from_secs(5), found).await.with_context(|| format!("no event: {what}"))?
}

async fn quiet(monitor: &mut Monitor) {
    while timeout(Duration::from_millis(50), monitor.next()).await.is_ok() {}
}

#[test]
fn every_kind_of_change_is_heard() -> Result<()> {
    in_fresh_namespace(|| async {
        let mut monitor = Monitor::new(Scope::Own)?;
        let netlink = Netlink::new()?;
        run("ip link add weft0 type bridge")?;
        let bridge = netlink.link("weft0").await?.context("weft0")?.ifindex;
        let own = |change| move |event: Event| event == Event { change, namespace_id: None };
        expect(&mut monitor, "new link", own(Change::Link { ifindex: bridge, removed: false })).await?;
        run("ip link add port0 type veth peer name port1")?;
        run("ip link set port0 master weft0 up")?;
        run("ip link set weft0 up")?;
        let port = netlink.link("port0").await?.context("port0")?.ifindex;

        let address = own(Change::Address { ifindex: bridge });
        let route = own(Change::Route);
        let neighbour = own(Change::Neighbour { ifindex: bridge, notable: true });
        let forwarding = own(Change::Forwarding { ifindex: port, notable: true });
        for command in ["add 10.1.0.1/24", "del 10.1.0.1/24", "add fd00::1/64", "del fd00::1/64"] {
            quiet(&mut monitor).await;
            run(&format!("ip address {command} dev weft0"))?;
            expect(&mut monitor, command, &address).await?;
        }
        run("ip address add 10.1.0.1/24 dev weft0")?;
        run("ip -6 address add fd00::1/64 dev weft0 nodad")?;
        for command in
            ["route add 10.2.0.0/16 dev weft0", "route del 10.2.0.0/16", "-6 route add fd01::/64 dev weft0"]
        {
            quiet(&mut monitor).await;
            run(&format!("ip {command}"))?;
            expect(&mut monitor, command, &route).await?;
        }
        for command in ["add 10.1.0.9 lladdr 02:00:00:00:00:09 nud permanent", "del 10.1.0.9"] {
            quiet(&mut monitor).await;
            run(&format!("ip neighbour {command} dev weft0"))?;
            expect(&mut monitor, command, &neighbour).await?;
        }
        for command in ["add 02:00:00:00:00:09 master static", "del 02:00:00:00:00:09 master"] {
            let (verb, rest) = command.split_once(' ').context("verb")?;
            let (mac, flags) = rest.split_once(' ').context("mac")?;
            quiet(&mut monitor).await;
            run(&format!("bridge fdb {verb} {mac} dev port0 {flags}"))?;
            expect(&mut monitor, command, &forwarding).await?;
        }
        quiet(&mut monitor).await;
        sysctl::set_ip_forward(!sysctl::ip_forward()?)?;
        expect(&mut monitor, "ip_forward", own(Change::Configuration)).await?;
        // Leaving the bridge is no removal.
        quiet(&mut monitor).await;
        run("ip link set port0 nomaster")?;
        expect(&mut monitor, "nomaster", |event| {
            assert_ne!(event.change, Change::Link { ifindex: port, removed: true });
            event.change == Change::Link { ifindex: port, removed: false }
        })
        .await?;
        run("ip link del weft0")?;
        expect(&mut monitor, "removed link", own(Change::Link { ifindex: bridge, removed: true })).await?;
        Ok(())
    })
}

#[test]
fn changes_inside_containers_are_heard() -> Result<()> {
    in_fresh_namespace(|| async {
        let container = Container::new()?;
        run(&format!("ip link add port0 type veth peer name eth0 netns {}", container.name))?;
        let (namespace, inside) = container.open().await?;
        let netlink = Netlink::new()?;
        let id = netlink.namespace_id(&namespace).await?;
        assert!(id.is_some());
        let eth0 = inside.link("eth0").await?.context("eth0")?.ifindex;
        let mut near = Monitor::new(Scope::Own)?;
        let mut far = Monitor::new(Scope::OwnAndNumbered)?;
        container.ip("address add 10.1.0.2/24 dev eth0")?;
        let wanted = Event { change: Change::Address { ifindex: eth0 }, namespace_id: id };
        expect(&mut far, "address inside", |event| event == wanted).await?;
        assert!(timeout(Duration::from_millis(100), near.next()).await.is_err());
        run("ip address add 10.1.0.1/24 dev port0")?;
        expect(&mut far, "own address", |event| event.namespace_id.is_none()).await?;
        expect(&mut near, "own address", |event| event.namespace_id.is_none()).await?;
        Ok(())
    })
}

#[test]
fn too_many_events_ask_for_a_resync() -> Result<()> {
    in_fresh_namespace(|| async {
        let mut monitor = Monitor::new(Scope::Own)?;
        let netlink = Netlink::new()?;
        run("ip link add weft0 type bridge")?;
        run("ip link set weft0 up")?;
        let ifindex = netlink.link("weft0").await?.context("weft0")?.ifindex;
        // Nobody reads meanwhile.
        let mut sent = 0_u32;
        for round in 0..40_u8 {
            for number in 0..=255_u8 {
                let address = std::net::Ipv4Addr::new(10, 1, round, number).into();
                netlink
                    .ensure_neighbour(ifindex, address, weft::model::MacAddress([2, 0, 0, 0, round, number]))
                    .await?;
                netlink.remove_neighbour(ifindex, address).await?;
                sent += 1;
            }
        }
        let mut heard = 0_u32;
        let resync = async {
            loop {
                heard += 1;
                if monitor.next().await?.change == Change::Resync {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(Duration::from_secs(10), resync).await.context("no resync")??;
        println!("resync after {heard} events of {sent} changes");
        // It goes on hearing.
        quiet(&mut monitor).await;
        run("ip link set weft0 down")?;
        expect(&mut monitor, "after the resync", |event| {
            event.change == Change::Link { ifindex, removed: false }
        })
        .await?;
        Ok(())
    })
}

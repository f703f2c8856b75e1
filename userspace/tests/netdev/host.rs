//! Namespaces, bridges, addresses, routes, sysctls and sockets of the host.

use std::{
    net::{TcpListener, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use weft::{
    model::{MacAddress, PortRange, Protocol},
    netdev::{
        BridgeSpec, LinkKind, Namespace, NamespaceRef, Netlink, Outcome, PortRanges, Route, SocketState,
        bound_ports, holders, sockets, sysctl,
    },
};

use crate::world::{Container, device, ensure_route, in_fresh_namespace, json, run};

const MAC: MacAddress = MacAddress([2, 0x42, 10, 10, 0, 1]);

fn bridge(mtu: u32) -> BridgeSpec {
    BridgeSpec { name: "weft0".into(), alias: "weft network shop".into(), mac_address: MAC, mtu }
}

#[test]
fn namespaces_are_found_and_told_apart() -> Result<()> {
    in_fresh_namespace(|| async {
        let (a, b) = (Container::new()?, Container::new()?);
        let (first, second, own) = (a.reference().open()?, b.reference().open()?, Namespace::own()?);
        let inode: u64 = run(&format!("stat -c %i /run/netns/{}", a.name))?.trim().parse()?;
        assert_eq!(first.identity().inode, inode);
        assert_ne!(first.identity(), second.identity());
        let cookies = [first.cookie().await?, second.cookie().await?, own.cookie().await?];
        assert!(
            cookies[0] != cookies[1] && cookies[1] != cookies[2] && cookies[0] != cookies[2],
            "{cookies:?}"
        );
        assert_eq!(cookies[0], a.reference().open()?.cookie().await?);

        // The whole process is in the namespace that the tests were started in, not in this thread's.
        let process = NamespaceRef::Pid(std::process::id()).identity()?;
        assert!(process.is_some_and(|process| process != own.identity()));

        let missing = NamespaceRef::Named("weft-netdev-none".into());
        assert_eq!(missing.identity()?, None);
        let error = missing.open().err().context("opened nothing")?.to_string();
        assert!(error.contains("ip netns add weft-netdev-none"), "{error}");
        assert!(NamespaceRef::Named("../netns/x".into()).identity().is_err());
        assert_eq!(NamespaceRef::Pid(u32::MAX - 1).identity()?, None);
        let file = tempfile::NamedTempFile::new()?;
        let error =
            NamespaceRef::Path(file.path().into()).identity().err().context("took a file")?.to_string();
        assert!(error.contains("ordinary file"), "{error}");

        let reference = a.reference();
        assert!(reference.identity()?.is_some());
        drop(a);
        assert_eq!(reference.identity()?, None);
        Ok(())
    })
}

#[test]
fn a_bridge_is_made_and_mended() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        for mtu in [1500, 1450] {
            let spec = bridge(mtu);
            let made = netlink.ensure_bridge(&spec).await?;
            assert_eq!(made.outcome, Outcome::Created);
            assert_eq!(netlink.ensure_bridge(&spec).await?.outcome, Outcome::Unchanged);
            let seen = device("ip -j -d link show dev weft0")?;
            assert_eq!(seen["address"], MAC.to_string());
            assert_eq!((&seen["mtu"], &seen["ifalias"]), (&mtu.into(), &"weft network shop".into()));
            let data = &seen["linkinfo"]["info_data"];
            assert_eq!((&data["stp_state"], &data["mcast_snooping"]), (&0.into(), &0.into()));
            assert_eq!(data["forward_delay"], 0);
            assert!(seen["flags"].to_string().contains("UP"));

            // Ports with other MTUs come and go; the bridge keeps its own.
            run("ip link add probe0 mtu 1300 type veth peer name probe1")?;
            run("ip link set probe0 master weft0")?;
            run("ip link set probe0 mtu 1280")?;
            assert_eq!(device("ip -j link show dev weft0")?["mtu"], mtu);
            run("ip link del probe0")?;
            assert_eq!(device("ip -j link show dev weft0")?["mtu"], mtu);

            for breakage in [
                "ip link set weft0 down",
                "ip link set weft0 mtu 1400",
                "ip link set weft0 address 02:00:00:00:00:09",
                "ip link set weft0 type bridge stp_state 1",
                "ip link set weft0 type bridge mcast_snooping 1",
            ] {
                run(breakage)?;
                let mended = netlink.ensure_bridge(&spec).await?;
                assert_eq!((mended.ifindex, mended.outcome), (made.ifindex, Outcome::Changed), "{breakage}");
                assert_eq!(netlink.ensure_bridge(&spec).await?.outcome, Outcome::Unchanged, "{breakage}");
            }
            run("ip link del weft0")?;
            assert_eq!(netlink.ensure_bridge(&spec).await?.outcome, Outcome::Created);
            assert!(netlink.remove_link("weft0", &spec.alias).await?);
            assert!(!netlink.remove_link("weft0", &spec.alias).await?);
        }

        // What is not weft's stays as it is: another alias, none at all, another kind.
        for stranger in ["type bridge", "type veth peer name probe1"] {
            run(&format!("ip link add weft0 {stranger}"))?;
            let error =
                netlink.ensure_bridge(&bridge(1500)).await.err().context("took a stranger")?.to_string();
            assert!(error.contains("weft0") && error.contains("not weft's"), "{error}");
            assert!(netlink.remove_link("weft0", "weft network shop").await.is_err());
            run("ip link del weft0")?;
        }
        // But a bridge that was made and not yet marked when the daemon was killed is taken up.
        run(&format!("ip link add weft0 address {MAC} type bridge"))?;
        assert_eq!(netlink.ensure_bridge(&bridge(1500)).await?.outcome, Outcome::Created);
        assert_eq!(device("ip -j link show dev weft0")?["ifalias"], "weft network shop");
        Ok(())
    })
}

#[test]
fn addresses_and_routes_are_made_and_mended() -> Result<()> {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new()?;
        let ifindex = netlink.ensure_bridge(&bridge(1500)).await?.ifindex;
        let addresses = ["10.10.0.1/24".parse()?, "fd00:10::1/64".parse()?];
        for address in addresses {
            assert!(netlink.ensure_address(ifindex, address).await?);
            assert!(!netlink.ensure_address(ifindex, address).await?);
        }
        let listed = netlink.addresses_of(ifindex).await?;
        for address in addresses {
            let found =
                listed.iter().find(|found| found.address == address).context("address is not listed")?;
            assert!(found.global && !found.tentative && !found.secondary, "{found:?}");
        }
        let seen = json("ip -j -4 address show dev weft0")?;
        assert_eq!(seen[0]["addr_info"][0]["local"], "10.10.0.1");
        assert_eq!(seen[0]["addr_info"][0]["broadcast"], "10.10.0.255");
        assert!(netlink.addresses_of(9999).await?.is_empty());

        assert_eq!(netlink.route_to("192.0.2.7".parse()?).await?, None);
        assert!(!netlink.routes().await?.iter().any(Route::is_default));
        for gateway in ["10.10.0.254".parse()?, "fd00:10::fe".parse()?] {
            let route = Route::default_by(gateway, ifindex);
            assert!(ensure_route(&netlink, &route).await?);
            assert!(!ensure_route(&netlink, &route).await?, "{:?}", netlink.routes().await?);
        }
        let way = netlink.route_to("192.0.2.7".parse()?).await?.context("no way")?;
        assert_eq!((way.ifindex, way.local), (ifindex, false));
        let way = netlink.route_to("2001:db8::7".parse()?).await?.context("no way")?;
        assert_eq!((way.ifindex, way.local), (ifindex, false));
        assert!(netlink.route_to("10.10.0.1".parse()?).await?.is_some_and(|way| way.local));
        assert!(netlink.route_to("10.10.0.9".parse()?).await?.is_some_and(|way| !way.local));
        run("ip route add blackhole 198.51.100.0/24")?;
        run("ip route add unreachable 203.0.113.0/24")?;
        assert_eq!(netlink.route_to("198.51.100.1".parse()?).await?, None);
        assert_eq!(netlink.route_to("203.0.113.1".parse()?).await?, None);

        // Another gateway takes the place of the first; one with a lower preference stays beside it.
        run("ip route add default via 10.10.0.77 dev weft0 metric 50")?;
        let by_other = Route::default_by("10.10.0.253".parse()?, ifindex);
        assert!(ensure_route(&netlink, &by_other).await?);
        let defaults = json("ip -j -4 route show default")?;
        assert_eq!(defaults.len(), 2, "{defaults:?}");
        assert_eq!(defaults[0]["gateway"], "10.10.0.253");
        assert!(netlink.routes().await?.contains(&by_other));

        let direct = Route {
            destination: "10.77.0.0/16".parse()?,
            gateway: None,
            ifindex,
            source: Some("10.10.0.1".parse()?),
            metric: 7,
        };
        assert!(ensure_route(&netlink, &direct).await? && !ensure_route(&netlink, &direct).await?);
        assert!(netlink.routes().await?.contains(&direct));
        assert!(netlink.remove_route(&direct).await? && !netlink.remove_route(&direct).await?);

        // Two next hops are two routes.
        run("ip route add 10.88.0.0/16 nexthop via 10.10.0.3 nexthop via 10.10.0.4")?;
        let hops = netlink
            .routes()
            .await?
            .into_iter()
            .filter(|route| route.destination.ip().to_string() == "10.88.0.0");
        assert_eq!(hops.count(), 2);

        // Taking the address away takes its routes along; all comes back.
        run("ip address flush dev weft0")?;
        assert!(netlink.ensure_address(ifindex, addresses[0]).await?);
        assert!(ensure_route(&netlink, &by_other).await?);
        assert!(netlink.remove_address(ifindex, addresses[0]).await?);
        assert!(!netlink.remove_address(ifindex, addresses[0]).await?);
        assert!(!netlink.remove_address(9999, addresses[0]).await?);

        let unreachable = Route::default_by("10.99.0.1".parse()?, ifindex);
        let error = ensure_route(&netlink, &unreachable).await.err().context("took it")?;
        let text = error.to_string();
        assert!(text.contains("10.99.0.1") && text.contains("invalid gateway"), "{text}");
        Ok(())
    })
}

#[test]
fn sysctls_are_read_and_written_whole() -> Result<()> {
    in_fresh_namespace(|| async {
        let outside = std::thread::spawn(sysctl::ip_local_reserved_ports);
        for on in [true, false, true] {
            sysctl::set_ip_forward(on)?;
            assert_eq!(sysctl::ip_forward()?, on);
            assert_eq!(run("sysctl -n net.ipv4.ip_forward")?.trim(), if on { "1" } else { "0" });
        }
        assert!(sysctl::ip_local_reserved_ports()?.is_empty());
        let few: PortRanges = "80,8000-8010".parse()?;
        sysctl::set_ip_local_reserved_ports(&few)?;
        assert_eq!(sysctl::ip_local_reserved_ports()?, few);
        // Much longer than a page, in both directions.
        let many: PortRanges = (1_u16..=65_535).step_by(2).collect();
        sysctl::set_ip_local_reserved_ports(&many)?;
        assert_eq!(sysctl::ip_local_reserved_ports()?, many);
        sysctl::set_ip_local_reserved_ports(&few.union(&"10000-19999".parse()?))?;
        assert_eq!(sysctl::ip_local_reserved_ports()?.to_string(), "80,8000-8010,10000-19999");
        sysctl::set_ip_local_reserved_ports(&PortRanges::default())?;
        assert!(sysctl::ip_local_reserved_ports()?.is_empty());
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 50001")?;
        assert_eq!(sysctl::ip_local_port_range()?, PortRange { first: 40000, last: 50001 });
        sysctl::ensure_no_ipv6("lo")?;
        assert_eq!(run("sysctl -n net.ipv6.conf.lo.disable_ipv6")?.trim(), "1");
        // As in a kernel without IPv6: there is no such setting, and nothing to be done.
        sysctl::ensure_no_ipv6("none")?;
        // Threads started here are in this namespace, too.
        assert!(outside.join().is_ok_and(|ports| ports.is_ok()));
        Ok(())
    })
}

#[test]
fn port_holders_are_named() -> Result<()> {
    in_fresh_namespace(|| async {
        let loopback = TcpListener::bind("127.0.0.1:8080")?;
        let dual = TcpListener::bind("[::]:8081")?;
        let ipv6 = UdpSocket::bind("[::1]:8082")?;
        let udp = UdpSocket::bind("0.0.0.0:8083")?;
        // Bound, neither listening nor connected.
        let bound = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        nix::sys::socket::bind(bound.as_raw_fd(), &nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 8084))?;
        let client = std::net::TcpStream::connect("127.0.0.1:8080")?;

        let tcp = |address: Option<&str>, port| {
            let address = address.map(|address| address.parse()).transpose();
            async move { anyhow::Ok(holders(Protocol::Tcp, address?, PortRange::single(port)).await?) }
        };
        let found = tcp(None, 8080).await?;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].socket.local, loopback.local_addr()?);
        assert_eq!(found[0].socket.state, SocketState::Listening);
        // A command that another test is just starting may hold it for the moment before its exec.
        let comm = std::fs::read_to_string("/proc/self/comm")?;
        let name = comm.trim();
        let pid = std::process::id();
        assert!(
            found[0].processes.iter().any(|process| process.pid as u32 == pid && process.name == name),
            "{found:?}"
        );
        let text = found[0].to_string();
        assert!(text.starts_with(&format!("tcp 127.0.0.1:8080 is held by {name} (process ")), "{text}");
        assert_eq!(tcp(Some("127.0.0.1"), 8080).await?.len(), 1);
        assert!(tcp(Some("192.0.2.1"), 8080).await?.is_empty());
        // The wildcard of IPv6 holds IPv4's port as well.
        assert_eq!(tcp(Some("192.0.2.1"), 8081).await?.len(), 1);
        assert!(tcp(None, 8081).await?[0].socket.dual_stack);
        assert_eq!(tcp(None, 8084).await?[0].socket.state, SocketState::Bound);
        let udp_holders = |ports| async move { anyhow::Ok(holders(Protocol::Udp, None, ports).await?) };
        assert_eq!(udp_holders(PortRange { first: 8000, last: 9000 }).await?.len(), 2);
        assert!(
            holders(Protocol::Udp, Some("127.0.0.1".parse()?), PortRange::single(8082)).await?.is_empty()
        );
        assert!(tcp(None, 8083).await?.is_empty());

        let ports = bound_ports().await?;
        let ephemeral = client.local_addr()?.port();
        for port in [8080, 8081, 8084, ephemeral] {
            assert!(ports.tcp.contains(port), "{port}: {ports:?}");
        }
        assert_eq!(ports.udp.to_string(), "8082-8083");
        // A connection is in use but holds no port that could be published.
        assert!(tcp(None, ephemeral).await?.is_empty());
        drop((loopback, dual, ipv6, udp, bound, client));
        // Closed once the last holder has gone: again, a command that another test is starting.
        let closed = async {
            while !sockets(Protocol::Udp).await?.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), closed).await??;

        // A port that the kernel itself holds.
        run("ip link add vx0 type vxlan id 7 dstport 4789")?;
        run("ip link set vx0 up")?;
        let kernel = udp_holders(PortRange::single(4789)).await?;
        assert!(kernel.iter().all(|holder| holder.processes.is_empty()), "{kernel:?}");
        Ok(())
    })
}

#[test]
fn the_lists_show_what_there_is() -> Result<()> {
    in_fresh_namespace(|| async {
        // With an address of its own: one that changes with a port takes all neighbours along.
        run(&format!("ip link add weft0 address {MAC} type bridge"))?;
        run("ip link add name port0 type veth peer name port1")?;
        run("ip link set port0 master weft0 up alias weft")?;
        run("ip link set weft0 up")?;
        run("ip address add 10.1.0.1/24 dev weft0")?;
        run("ip neighbour add 10.1.0.9 lladdr 02:00:00:00:00:09 dev weft0 nud permanent")?;
        run("ip link add vx0 master weft0 type vxlan id 7 dstport 4789")?;
        run("bridge fdb add 02:00:00:00:00:09 dev vx0 master static")?;
        run("bridge fdb add 02:00:00:00:00:09 dev vx0 dst 192.0.2.2 self")?;
        run("bridge fdb add 02:00:00:00:00:08 dev port0 master static")?;
        let netlink = Netlink::new()?;
        let links = netlink.links().await?;
        let link = |name: &'static str| links.iter().find(|link| link.name == name).context(name);
        let (bridge, port, other) = (link("weft0")?, link("port0")?, link("port1")?);
        assert_eq!(port.master, Some(bridge.ifindex));
        assert_eq!(port.alias.as_deref(), Some("weft"));
        let LinkKind::Veth(Some(peer)) = port.kind else { panic!("{port:?}") };
        assert_eq!((peer.ifindex, peer.namespace_id), (other.ifindex, None));
        assert!(port.port.is_some_and(|flags| flags.learning && !flags.isolated));
        assert_eq!(
            netlink
                .addresses()
                .await?
                .iter()
                .filter(|address| address.ifindex == bridge.ifindex && address.address.is_ipv4())
                .count(),
            1
        );
        assert!(netlink.routes().await?.iter().any(|route| route.destination.to_string() == "10.1.0.0/24"));
        let mac = "02:00:00:00:00:09".parse().ok();
        let neighbours = netlink.neighbours().await?;
        assert!(neighbours.iter().any(|neighbour| neighbour.mac_address == mac && neighbour.permanent));
        let vxlan = link("vx0")?.ifindex;
        let forwarding = netlink.forwarding_entries(vxlan).await?;
        assert!(forwarding.iter().all(|entry| entry.ifindex == vxlan), "{forwarding:?}");
        // In the device's own table, and in its bridge's.
        let known = forwarding.iter().filter(|entry| Some(entry.mac_address) == mac);
        let mut bridges: Vec<_> = known.map(|entry| entry.bridge).collect();
        bridges.sort_unstable();
        assert_eq!(bridges, [None, Some(bridge.ifindex)]);
        let of_port = netlink.forwarding_entries(port.ifindex).await?;
        assert!(of_port.iter().any(|entry| entry.bridge == Some(bridge.ifindex)), "{of_port:?}");
        Ok(())
    })
}

//! The kernel's way: bridge, iptables as Docker writes it, vxlan device.

use anyhow::Result;

use super::{HOSTS, OVERLAY, OVERLAY_MAC, Pair, SHOP, Site, VNI, WEB, on_one_host};
use crate::{
    Host, Lab, Namespace,
    bench::{
        Path, Variant,
        measure::{ECHO, IPERF, REQUESTS, WHOAMI},
        topology::Contender,
    },
};

/// Builds it for these paths.
pub(super) fn build(lab: &Lab, paths: &[Path]) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    if on_one_host(paths) {
        let site = Site::build(lab, "kernel")?;
        site.host.kernel_bridge("bridge0", "10.10.0.1/24")?;
        without_bridge_netfilter(&site.host)?;
        for (container, mac, address) in
            [(&site.web, "02:42:0a:0a:00:0a", WEB), (&site.shop, "02:42:0a:0a:00:0b", SHOP)]
        {
            plug(&site.host, container, mac, &format!("{address}/24"), 1500)?;
            container.ip("route add default via 10.10.0.1")?;
        }
        site.host.check(&format!("iptables-restore <<'END'\n{}END\n", docker_rules()))?;
        all.extend(site.contenders(paths, Variant::Kernel, |_, _| Vec::new())?);
    }
    if paths.contains(&Path::Overlay) {
        let pair = Pair::build(lab, "kernel")?;
        for (here, host) in pair.hosts.iter().enumerate() {
            let there = 1 - here;
            let (local, remote) = (HOSTS[here], HOSTS[there]);
            host.ip("link add bridge0 type bridge stp_state 0")?;
            without_bridge_netfilter(host)?;
            // As Docker: no outer checksum. The inner one is there.
            host.ip(&format!(
                "link add vxlan0 mtu 1450 type vxlan id {VNI} local {local} dstport 4789 dev eth0 \
                 nolearning noudpcsum"
            ))?;
            host.ip("link set vxlan0 master bridge0 up")?;
            host.ip("link set bridge0 up")?;
            let address = format!("{}/24", OVERLAY[here]);
            plug(host, &pair.containers[here], OVERLAY_MAC[here], &address, 1450)?;
            // Static entries as a cluster's controller sets them: the peer for broadcasts, and its container.
            for mac in ["00:00:00:00:00:00", OVERLAY_MAC[there]] {
                host.check(&format!("bridge fdb append {mac} dev vxlan0 dst {remote} self"))?;
            }
        }
        all.push(pair.contender(Variant::Kernel, Vec::new())?);
    }
    Ok(all)
}

/// br_netfilter, where it is loaded, sends bridged packets through iptables. Docker needs that only to
/// separate containers of one network; without it the kernel's bridge is at its best.
fn without_bridge_netfilter(host: &Host) -> Result<()> {
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    host.check(&format!("if [ -e {switch} ]; then echo 0 > {switch}; fi")).map(drop)
}

/// Plugs `eth0` of a container into bridge0 of the host.
fn plug(host: &Host, container: &Namespace, mac: &str, address: &str, mtu: u32) -> Result<()> {
    let (port, netns) = (format!("veth-{}", container.name()), container.netns());
    host.ip(&format!(
        "link add {port} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {netns}"
    ))?;
    host.ip(&format!("link set {port} master bridge0 up"))?;
    container.ip(&format!("address add {address} dev eth0"))?;
    container.ip("link set eth0 up").map(drop)
}

/// What Docker writes for a network with a container that publishes ports, less what these packets never meet.
fn docker_rules() -> String {
    let tcp = [ECHO, REQUESTS, WHOAMI, IPERF].map(|port| ("tcp", port));
    let udp = [ECHO, WHOAMI].map(|port| ("udp", port));
    let mut nat = String::new();
    let mut filter = String::new();
    for (protocol, port) in tcp.into_iter().chain(udp) {
        nat += &format!(
            "-A POSTROUTING -s {WEB}/32 -d {WEB}/32 -p {protocol} -m {protocol} --dport {port} -j MASQUERADE\n\
             -A DOCKER ! -i bridge0 -p {protocol} -m {protocol} --dport {port} \
             -j DNAT --to-destination {WEB}:{port}\n"
        );
        filter += &format!(
            "-A DOCKER -d {WEB}/32 ! -i bridge0 -o bridge0 -p {protocol} -m {protocol} --dport {port} -j ACCEPT\n"
        );
    }
    format!(
        "*nat\n\
         :PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s 10.10.0.0/24 ! -o bridge0 -j MASQUERADE\n\
         -A DOCKER -i bridge0 -j RETURN\n\
         {nat}COMMIT\n\
         *filter\n\
         :INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER -\n\
         :DOCKER-ISOLATION-STAGE-1 -\n:DOCKER-ISOLATION-STAGE-2 -\n:DOCKER-USER -\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
         -A FORWARD -o bridge0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -o bridge0 -j DOCKER\n\
         -A FORWARD -i bridge0 ! -o bridge0 -j ACCEPT\n\
         -A FORWARD -i bridge0 -o bridge0 -j ACCEPT\n\
         {filter}\
         -A DOCKER-ISOLATION-STAGE-1 -i bridge0 ! -o bridge0 -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
         -A DOCKER-ISOLATION-STAGE-2 -o bridge0 -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
         -A DOCKER-USER -j RETURN\n\
         COMMIT\n"
    )
}

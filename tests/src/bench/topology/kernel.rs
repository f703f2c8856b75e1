//! The kernel's way: bridge, iptables or nftables, vxlan device.

use anyhow::Result;

use super::{
    GATEWAY, HOST, HOSTS, INNER_MTU, OVERLAY, OVERLAY_MAC, Pair, SHOP, Seen, Site, VNI, WEB, iptables,
    nftables, on_one_host,
};
use crate::{
    Host, Lab, Namespace,
    bench::{Path, Variant, topology::Contender},
};

/// Builds it for these paths, with the rules of this variant.
pub(super) fn build(lab: &Lab, variant: Variant, paths: &[Path]) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    if on_one_host(paths) {
        let site = Site::build(lab, variant.name())?;
        site.host.kernel_bridge("bridge0", &format!("{GATEWAY}/24"))?;
        // A container that is told of a shorter way past the host would leave the path that is measured.
        site.host.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
        site.host.sysctl("net.ipv4.conf.bridge0.send_redirects", "0")?;
        without_bridge_netfilter(&site.host)?;
        for (container, mac, address) in
            [(&site.web, "02:42:0a:0a:00:0a", WEB), (&site.shop, "02:42:0a:0a:00:0b", SHOP)]
        {
            plug(&site.host, container, mac, &format!("{address}/24"), INNER_MTU)?;
            container.ip(&format!("route add default via {GATEWAY}"))?;
        }
        site.host.check(&match variant {
            Variant::Nftables => format!("nft -f - <<'END'\n{}END\n", nftables::rules()),
            _ => format!("iptables-restore <<'END'\n{}END\n", iptables::rules()),
        })?;
        let seen = Seen { from_host: HOST, hairpin: GATEWAY };
        all.extend(site.contenders(lab, paths, variant, &seen, |_, _| Vec::new())?);
    }
    if paths.contains(&Path::Overlay) {
        let pair = Pair::build(lab, variant.name())?;
        for (here, host) in pair.hosts.iter().enumerate() {
            let there = 1 - here;
            let (local, remote) = (HOSTS[here], HOSTS[there]);
            host.ip("link add bridge0 type bridge stp_state 0")?;
            without_bridge_netfilter(host)?;
            // As Docker: no outer checksum. The inner one is there.
            host.ip(&format!(
                "link add vxlan0 mtu {INNER_MTU} type vxlan id {VNI} local {local} dstport 4789 dev eth0 \
                 nolearning noudpcsum"
            ))?;
            host.ip("link set vxlan0 master bridge0 up")?;
            host.ip("link set bridge0 up")?;
            let address = format!("{}/24", OVERLAY[here]);
            plug(host, &pair.containers[here], OVERLAY_MAC[here], &address, INNER_MTU)?;
            // Static entries as a cluster's controller sets them: the peer for broadcasts, and its container.
            for mac in ["00:00:00:00:00:00", OVERLAY_MAC[there]] {
                host.check(&format!("bridge fdb append {mac} dev vxlan0 dst {remote} self"))?;
            }
        }
        all.push(pair.contender(lab, variant, Vec::new())?);
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

//! iptables as Docker writes it without its proxy processes (`userland-proxy: false`).
//!
//! One rule is another one: what goes from the network into the network through a published port is masqueraded. Docker
//! leaves the source and has br_netfilter turn the answer back; the module costs every bridged packet something, and it is a
//! setting of the whole machine.

use super::{TCP_PORTS, UDP_PORTS, WEB};

/// What Docker writes for a network with a container that publishes ports, less what these packets never meet.
pub(super) fn rules() -> String {
    let tcp = TCP_PORTS.map(|port| ("tcp", port));
    let udp = UDP_PORTS.map(|port| ("udp", port));
    let mut nat = String::new();
    let mut filter = String::new();
    for (protocol, port) in tcp.into_iter().chain(udp) {
        nat += &format!(
            "-A POSTROUTING -s {WEB}/32 -d {WEB}/32 -p {protocol} -m {protocol} --dport {port} -j MASQUERADE\n\
             -A DOCKER -p {protocol} -m {protocol} --dport {port} \
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
         -A POSTROUTING -s 10.10.0.0/24 -o bridge0 -m conntrack --ctstate DNAT -j MASQUERADE\n\
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

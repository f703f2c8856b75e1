//! Level-triggered: whatever is deleted or changed behind the daemon's back is put right, within a second of the
//! netlink event, or within 10 s where there is none.
//!
//! Repair is measured by reading the kernel itself again and again until everything in it is as it was: devices,
//! addresses, routes, attached programs, pins and map entries. Traffic is only tried afterwards, for a ping that is lost
//! takes longer than the repair may.

mod common;

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use common::{Family, ONE_HOST, OneHost};
use serde_json::Value;

/// What DESIGN promises where the kernel tells,
const HEARD_OF: Duration = Duration::from_secs(1);
/// and where it does not.
const UNHEARD_OF: Duration = Duration::from_secs(10);
/// Between two readings, which themselves take a few times as long.
const POLL: Duration = Duration::from_millis(20);

/// Maps whose entries the controller writes, and that name devices by index.
const MAPS: [&str; 5] = ["published", "endpoints", "devices", "subnets", "addresses"];

/// All that weft has in the kernel, one line each, without what differs when it is made anew (indexes, identifiers).
fn snapshot(it: &OneHost) -> Result<BTreeSet<String>> {
    let containers = [&it.web, &it.shop, &it.other, &it.db];
    let bpf = it.daemon.bpf_dir().display();
    let mut script = "ip -j addr; ip -j route; ip -j -6 route; ".to_owned();
    // Only the newest bpftool lists TCX: the daemon is asked how many of its links the kernel says are attached.
    let (weft, socket) = (it.host.weft_program()?, it.daemon.socket().display());
    script +=
        &format!("status=$({weft} status -o json --socket {socket} 2>/dev/null); echo ${{status:-null}}; ");
    for map in MAPS {
        script += &format!("bpftool -j map dump pinned {bpf}/v1/maps/{map}; ");
    }
    for container in containers {
        let netns = container.netns();
        script += &format!("ip -n {netns} -j addr; ip -n {netns} -j route; ip -n {netns} -j -6 route; ");
    }
    script += &format!("find {bpf} -type f 2>/dev/null || true");
    let text = it.host.check(&script)?;
    let mut stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut next = || -> Result<Value> { Ok(stream.next().context("too little was printed")??) };

    let mut lines = BTreeSet::new();
    let addresses = next()?;
    let names: HashMap<u64, String> = list(&addresses)
        .filter_map(|link| Some((link["ifindex"].as_u64()?, link["ifname"].as_str()?.to_owned())))
        .collect();
    lines.extend(devices("host", &addresses));
    for _family in 0..2 {
        lines.extend(routes("host", &next()?));
    }
    for program in list(&next()?["programs"]) {
        lines.insert(format!("program {} attached {}", program["name"], program["attached"]));
    }
    for map in MAPS {
        // IPv6 addresses come when duplicate address detection ends.
        for entry in list(&next()?).filter(|entry| entry["formatted"]["key"]["octets"][0] != 0xfe) {
            lines.insert(format!("map {map} {}", named(&entry["formatted"], &names)));
        }
    }
    for container in containers {
        lines.extend(devices(container.name(), &next()?));
        for _family in 0..2 {
            lines.extend(routes(container.name(), &next()?));
        }
    }
    for pin in text[stream.byte_offset()..].split_whitespace() {
        // from_container-17. The pin of a link whose device has gone guards nothing; it goes with the next full round.
        match pin.rsplit_once('-').and_then(|(path, index)| Some((path, index.parse::<u64>().ok()?))) {
            Some((path, index)) => {
                lines.extend(names.get(&index).map(|device| format!("pin {path} of {device}")));
            }
            None => drop(lines.insert(format!("pin {pin}"))),
        }
    }
    Ok(lines)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Name, state, bridge, MTU, MAC and addresses of each device.
fn devices(of: &str, addresses: &Value) -> Vec<String> {
    let one = |link: &Value| {
        let up = list(&link["flags"]).any(|flag| flag == "UP");
        // IPv6's come in any order.
        let inet: BTreeSet<_> = list(&link["addr_info"])
            .filter(|address| address["scope"] != "link")
            .map(|address| format!("{}/{}", address["local"], address["prefixlen"]))
            .collect();
        // A bridge's and a container's are of weft's choice, the host side of a veth has any.
        let veth = link["ifname"].as_str().is_some_and(|name| name.starts_with("veth"));
        let mac = if veth { &Value::Null } else { &link["address"] };
        format!(
            "{of} device {} up {up} master {} mtu {} MAC {mac} {inet:?}",
            link["ifname"], link["master"], link["mtu"]
        )
    };
    list(addresses).map(one).collect()
}

/// Routes that are of weft's choice, or made with an address of its choice.
fn routes(of: &str, routes: &Value) -> Vec<String> {
    let routes = list(routes).filter(|route| route["dst"] != "fe80::/64");
    routes.map(|it| format!("{of} {}", route(it))).collect()
}

/// A route. Whether the kernel or weft has put back the one of a subnet makes no difference.
fn route(route: &Value) -> String {
    let (to, via, from) = (&route["dst"], &route["gateway"], &route["prefsrc"]);
    format!("route to {to} via {via} dev {} from {from} scope {}", route["dev"], route["scope"])
}

/// An entry with names in place of device indexes, and without the MAC address of the host side of a veth.
fn named(entry: &Value, names: &HashMap<u64, String>) -> String {
    let name =
        |index: &Value| index.as_u64().and_then(|index| names.get(&index)).cloned().unwrap_or_default();
    let (mut key, mut value) = (entry["key"].clone(), entry["value"].clone());
    if key.is_u64() {
        key = name(&key).into();
    }
    if value.is_u64() {
        value = name(&value).into();
    }
    if let Some(index) = value.get_mut("ifindex") {
        *index = name(index).into();
    }
    format!("{key} {value}")
}

/// A host as it must be.
struct Watched {
    it: OneHost,
    whole: BTreeSet<String>,
}

impl Watched {
    fn new(title: &str) -> Result<Self> {
        let it = OneHost::of(Family::V6, title, ONE_HOST)?;
        let whole = snapshot(&it)?;
        for expected in [
            "program",
            "map published",
            "map endpoints",
            "web route",
            "web route to \"fd00",
            "pin",
            "host device \"br-front\"",
        ] {
            ensure!(whole.iter().any(|line| line.starts_with(expected)), "no {expected} in {whole:#?}");
        }
        Ok(Self { it, whole })
    }

    /// Runs a shell command in a namespace and measures until all is as it was. The time of the command counts.
    fn repaired(&self, limit: Duration, at: &tests::Namespace, what: &str, command: &str) -> Result<()> {
        let start = Instant::now();
        at.check(command)?;
        let mut seen_broken = false;
        loop {
            let before_reading = start.elapsed();
            let now = snapshot(&self.it)?;
            if now == self.whole {
                // Without events nothing is repaired before anybody can look.
                ensure!(seen_broken || limit == HEARD_OF, "{what}: `{command}` did no harm");
                println!("{what}: repaired within {:?}", start.elapsed());
                return Ok(());
            }
            seen_broken = true;
            ensure!(
                before_reading < limit,
                "{what}: not repaired within {limit:?}; missing {:#?}, superfluous {:#?}",
                self.whole.difference(&now).collect::<Vec<_>>(),
                now.difference(&self.whole).collect::<Vec<_>>(),
            );
            std::thread::sleep(POLL);
        }
    }

    /// Traffic goes through what was repaired.
    fn finish(self) -> Result<()> {
        let it = self.it;
        let _web = it.web.serve_http(80, "hello")?;
        for family in [Family::V4, Family::V6] {
            it.greets(family)?;
            for (from, to) in [(&it.web, "10.10.0.11"), (&it.shop, "192.0.2.100"), (&it.db, "10.11.0.11")] {
                assert!(from.pings(&family.address(to))?, "{family:?} {to}");
            }
        }
        it.lab.finish()
    }

    /// The host side of a container's `eth0`.
    fn veth(&self, container: &tests::Container) -> Result<String> {
        let peer = container.ip_json("link show dev eth0")?[0]["link_index"].as_u64();
        let all = self.it.host.ip_json("link show")?;
        let found = list(&all).find(|link| link["ifindex"].as_u64() == peer);
        Ok(found.and_then(|link| link["ifname"].as_str()).context("no host side")?.to_owned())
    }
}

/// Devices, addresses and routes: netlink tells, and within a second all is as it was.
#[test]
fn what_netlink_tells_is_repaired_within_a_second() -> Result<()> {
    let watched = Watched::new("drift")?;
    let (host, web, shop) = (&watched.it.host, &watched.it.web, &watched.it.shop);
    let within_a_second =
        |at: &tests::Namespace, what: &str, command: &str| watched.repaired(HEARD_OF, at, what, command);
    let veth = watched.veth(web)?;
    within_a_second(host, "a veth", &format!("ip link del {veth}"))?;
    within_a_second(web, "the container's end of it", "ip link del eth0")?;
    within_a_second(web, "the default route", "ip route del default")?;
    within_a_second(web, "that of IPv6", "ip -6 route del default")?;
    within_a_second(web, "all routes of IPv6", "ip -6 route flush dev eth0")?;
    within_a_second(web, "the container's addresses", "ip addr flush dev eth0")?;
    within_a_second(web, "the one of IPv6", "ip -6 addr flush dev eth0 scope global")?;
    within_a_second(web, "the container's end, down", "ip link set dev eth0 down")?;
    within_a_second(web, "the container's MAC address", "ip link set dev eth0 address 02:00:00:00:00:66")?;
    within_a_second(host, "the host's end, down", &format!("ip link set dev {veth} down"))?;
    within_a_second(host, "the port of the bridge", &format!("ip link set dev {veth} nomaster"))?;
    within_a_second(host, "a bridge", "ip link del br-front")?;
    within_a_second(host, "a bridge, down", "ip link set dev br-front down")?;
    within_a_second(host, "the gateway's addresses", "ip addr flush dev br-front")?;
    within_a_second(host, "the one of IPv6", "ip -6 addr flush dev br-front scope global")?;
    within_a_second(host, "the MTU of the bridge", "ip link set dev br-front mtu 1400")?;
    // What cannot be repaired at once does not lose its guard, and is repaired when it can be.
    within_a_second(
        shop,
        "routes of a container",
        "ip route del default; ip route flush dev eth0 scope link",
    )?;
    watched.finish()
}

/// Pins, programs and map entries: nobody tells, and within 10 s all is as it was.
#[test]
fn what_nobody_tells_is_repaired_within_ten_seconds() -> Result<()> {
    let watched = Watched::new("unheard")?;
    let (it, bpf) = (&watched.it, watched.it.daemon.bpf_dir().display());
    let within_ten = |what: &str, command: &str| watched.repaired(UNHEARD_OF, &it.host, what, command);
    within_ten("four pins of links", &format!("rm $(find {bpf} -path '*links*' -type f | head -4)"))?;
    within_ten("all pins of this version", &format!("rm -r {bpf}/v1"))?;
    within_ten("the whole directory of pins", &format!("rm -r {bpf}"))?;
    within_ten(
        "attached programs",
        &format!(
            "for pin in $(find {bpf} -path '*links*' -type f); do bpftool link detach pinned $pin; done"
        ),
    )?;
    let mut delete = String::new();
    for map in MAPS {
        let pin = format!("{bpf}/v1/maps/{map}");
        let keys = it.host.check(&format!(
            "bpftool -j map dump pinned {pin} | python3 -c 'import json,sys; [print(*e[\"key\"]) for e in json.load(sys.stdin)]'"
        ))?;
        ensure!(keys.lines().count() > 1, "{map} is empty");
        for key in keys.lines() {
            delete += &format!("bpftool map delete pinned {pin} key {key}\n");
        }
    }
    within_ten("every entry of five maps", &delete)?;
    watched.finish()
}

//! Datagrams in pieces, on the wire: in every order, some of them lost, and in a flood.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use common::{
    OneHost,
    fragments::{COUNT, Fragments},
    within,
};
use tests::Namespace;

#[test]
fn fragments_pass_in_every_order() -> Result<()> {
    let it = OneHost::new("frags")?;
    let tool = Fragments::new(&it.lab)?;
    // Where one was lost: in weft, or in the stack of either end.
    let told = |from: &Namespace, to: &Namespace| -> Result<String> {
        let counters = "nstat -asz IpReasm* UdpIn*Errors IcmpIn*Errors | grep -v ' 0  '";
        let [near, far] = [from.run(counters)?.stdout, to.run(counters)?.stdout];
        Ok(format!("dropped: {}\n{}: {near}\n{}: {far}", it.drops("fragment")?, from.name(), to.name()))
    };
    for (from, to, address, ports) in [
        (&*it.web, &*it.client, "192.0.2.100", (9001, 9001)),
        (&it.client, &it.web, "192.0.2.1", (5353, 53)),
        (&it.other, &it.web, "192.0.2.1", (5353, 53)),
        (&it.shop, &it.web, "10.10.0.10", (53, 53)),
        (&it.host, &it.web, "10.10.0.10", (53, 53)),
    ] {
        if let Err(lost) = tool.exchange(from, to, address, ports) {
            return Err(lost.context(told(from, to)?));
        }
        ensure!(it.packets("fragment_waits")? > 0, "nothing waited");
    }
    for order in ["012", "210", "120", "2210"] {
        let answered = tool.ping(&it.web, "192.0.2.100", order, COUNT)?;
        ensure!(answered == COUNT, "echo in order {order}: {answered}, {}", told(&it.web, &it.client)?);
    }
    ensure!(it.drops("fragment")? == 0, "{} dropped", it.drops("fragment")?);
    it.lab.finish()
}

/// What has no first is dropped and counted, does not stay, and is in nobody's way for longer than that.
#[test]
fn fragments_without_a_first_do_no_harm() -> Result<()> {
    let it = OneHost::new("orphans")?;
    let tool = Fragments::new(&it.lab)?;
    let _server = tool.answer(&it.client, 9001, "012345")?;
    ensure!(tool.ask(&it.web, "192.0.2.100", 9001, "12345", 1)? == 0, "the first fragment was lost");
    // Either of two datagrams: five fragments.
    within(Duration::from_secs(2), "they are dropped", || Ok(it.drops("fragment")? == 10))?;

    let mut answered = 0;
    let mut turns = 0;
    // Short ones wait no longer than long ones, and no more of them.
    for size in [1400, 8] {
        let mut flood = it.web.spawn(&tool.command(&format!("flood 192.0.2.100 9001 10000 {size}")))?;
        while flood.status()?.is_none() {
            answered += tool.ask(&it.shop, "192.0.2.100", 9001, "012345", COUNT)?;
            turns += 1;
        }
        // 67 ms later all of it is gone; what the machine still has to do may take longer.
        within(Duration::from_secs(1), "nothing waits any more", || {
            let left = it.host.check("tc -s qdisc show dev weft-wait")?;
            ensure!(left.matches("backlog 0b 0p").count() == 2, "{left}");
            Ok(true)
        })?;
    }
    let asked = 2 * COUNT * turns;
    ensure!(turns > 0 && answered == asked, "{answered} of {asked} in order during the flood");
    let dropped = it.drops("fragment")?;
    ensure!(dropped > 100, "{dropped} dropped");
    ensure!(tool.ask(&it.shop, "192.0.2.100", 9001, "543210", COUNT)? == 2 * COUNT, "after the flood");
    it.lab.finish()
}

/// The waiting room is put right like every other device.
#[test]
fn the_waiting_room_comes_back() -> Result<()> {
    let it = OneHost::new("room")?;
    let tool = Fragments::new(&it.lab)?;
    let _server = tool.answer(&it.client, 9001, "012345")?;
    let works = || -> Result<bool> { Ok(tool.ask(&it.web, "192.0.2.100", 9001, "543210", 1)? == 2) };
    ensure!(works()?, "at the start");
    for (damage, limit) in [
        ("ip link del weft-wait", 2),
        ("ip link set weft-back down", 2),
        ("tc qdisc replace dev weft-wait root pfifo limit 1", 12),
    ] {
        it.host.check(damage)?;
        within(Duration::from_secs(limit), damage, || {
            let queue = it.host.run("tc qdisc show dev weft-wait")?;
            Ok(queue.stdout.contains("tbf") && queue.stdout.contains("pfifo") && works()?)
        })?;
    }
    it.lab.finish()
}

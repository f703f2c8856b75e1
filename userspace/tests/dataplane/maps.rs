//! Opening: pinned maps, what tools and the controller see of them.

use std::{collections::HashMap, fs, thread};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap as BpfHashMap, MapData};
use dataplane_common::abi::{
    Device, DropReason, Endpoint, Flow, HostSocketKey, HostSocketValue, Index, Mapping, MappingKey, Peer,
    Publication, Remote, Settings, Subnet, SubnetKey, Tuple, VxlanKey, map,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use weft::{
    dataplane::{self, Error, Prefix, TcProgram, publication_prefixes},
    model::PortRange,
};

use crate::place::{Place, device, endpoint_key, eventually, in_namespace, run, v4, veth, zeroed};

#[test]
fn one_directory_has_one_owner() -> Result<()> {
    let place = Place::new()?;
    let owner = place.open()?;
    assert!(matches!(place.open(), Err(Error::InUse { .. })));
    assert!(matches!(dataplane::teardown(&place.options.bpf_dir), Err(Error::InUse { .. })));
    drop(owner);
    place.open()?;
    Ok(())
}

#[test]
fn a_pinned_map_of_another_layout_is_refused() -> Result<()> {
    let place = Place::new()?;
    drop(place.open()?);
    let pin = place.maps().join(map::DEVICES);
    fs::remove_file(&pin)?;
    let flags = aya_obj::generated::BPF_F_NO_PREALLOC;
    let foreign = BpfHashMap::<MapData, u32, u64>::create(8192, flags)?;
    foreign.pin(&pin)?;
    let message = match place.open() {
        Err(error @ Error::MapMismatch { property: "value size", .. }) => error.to_string(),
        Err(other) => bail!(other),
        Ok(_) => bail!("the map was used"),
    };
    let expected = format!("expect {}", size_of::<Device>());
    for part in ["devices", "value size 8", &expected, "weft teardown"] {
        assert!(message.contains(part), "{message}");
    }
    fs::remove_file(&pin)?;
    BpfHashMap::<MapData, u32, u64>::create(8192, 0)?.pin(&pin)?;
    assert!(place.open().is_err());
    Ok(())
}

#[test]
fn a_map_keeps_its_size_and_says_so() -> Result<()> {
    let mut place = Place::new()?;
    place.options.sizes.max_flows = 1024;
    let small = place.open()?;
    assert_eq!(small.tables.flows.max_entries(), 1024);
    drop(small);
    place.options.sizes.max_flows = 4096;
    let kept = place.open()?;
    assert_eq!(kept.tables.flows.max_entries(), 1024);
    let flows = kept.kept_sizes().iter().find(|kept| kept.map == map::FLOWS).context("not reported")?;
    assert_eq!((flows.kept, flows.wanted), (1024, 4096));
    assert!(kept.kept_sizes().iter().any(|kept| kept.map == map::PORTS));
    Ok(())
}

#[test]
fn pins_are_never_made_where_they_would_be_lost() -> Result<()> {
    let place = Place::new()?;
    thread::spawn(move || -> Result<()> {
        // As under `ip netns exec`: a mount namespace of its own, with nothing mounted at /sys/fs/bpf.
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        while umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).is_ok() {}
        match place.open() {
            Err(Error::BpfDirectory { problem, .. }) => assert!(problem.contains("nsenter"), "{problem}"),
            Err(other) => bail!(other),
            Ok(_) => bail!("a BPF file system was mounted"),
        }
        assert!(!place.options.bpf_dir.exists());
        Ok(())
    })
    .join()
    .map_err(|_| anyhow::anyhow!("thread panicked"))?
}

#[test]
fn bpftool_prints_named_fields() -> Result<()> {
    let place = Place::new()?;
    let mut dataplane = place.open()?;
    let tables = &mut dataplane.tables;
    let tuple: Tuple = zeroed();
    let flow: Flow = zeroed();
    tables.devices.set(&1, &device(1400))?;
    tables.endpoints.set(&endpoint_key(1), &zeroed::<Endpoint>())?;
    tables.remotes.set(&endpoint_key(1), &zeroed::<Remote>())?;
    tables.peers.set(&1, &zeroed::<Peer>())?;
    tables.vxlan.set(&VxlanKey { vni: 1, peer: v4(1) }, &1)?;
    tables.subnets.set(&Prefix::new(104, SubnetKey { address: v4(0) }), &Subnet { network: 1, flags: 0 })?;
    tables.addresses.set(&v4(1), &1)?;
    for prefix in publication_prefixes(6, &v4(1), PortRange::single(80)) {
        tables.published.set(&prefix, &zeroed::<Publication>())?;
    }
    tables.flows.set(&tuple, &flow)?;
    tables.unconfirmed.set(&tuple, &flow)?;
    tables.ports.set(&tuple, &Index::of(tuple))?;
    tables.mappings.set(&zeroed::<MappingKey>(), &zeroed::<Mapping>())?;
    tables.host_sockets.set(&zeroed::<HostSocketKey>(), &zeroed::<HostSocketValue>())?;
    let expected = [
        (map::DEVICES, "", "mtu"),
        (map::ENDPOINTS, "network", "epoch"),
        (map::REMOTES, "address", "peer"),
        (map::PEERS, "", "ifindex"),
        (map::VXLAN, "vni", ""),
        (map::SUBNETS, "data", "network"),
        (map::ADDRESSES, "octets", ""),
        (map::PUBLISHED, "data", "first_host_port"),
        (map::PORT_SETS, "", "bits"),
        (map::FLOWS, "remote_port", "last_seen_ns"),
        (map::UNCONFIRMED, "local_port", "epoch"),
        (map::PORTS, "protocol", "inside"),
        (map::MAPPINGS, "internal", "last_used_ns"),
        (map::HOST_SOCKETS, "cookie", "port"),
        (map::SETTINGS, "", "udp_timeout_ns"),
    ];
    for (name, key, value) in expected {
        let text = run(&format!("bpftool -j map dump pinned {}", place.maps().join(name).display()))?;
        let entries: serde_json::Value = serde_json::from_str(&text)?;
        let entry = &entries[0]["formatted"];
        for (side, field) in [("key", key), ("value", value)] {
            let shown = &entry[side];
            let named = if field.is_empty() { shown.is_number() } else { shown.get(field).is_some() };
            assert!(named, "{name}: no {side} {field:?} in {entry}");
        }
    }
    Ok(())
}

#[test]
fn drops_are_counted_settings_kept_and_expiry_answers() -> Result<()> {
    in_namespace(|| {
        let place = Place::new()?;
        let mut dataplane = place.open()?;
        assert_eq!(dataplane.expire_flows(false)?, 0);
        let settings = Settings { udp_timeout_ns: 300_000_000_000, ..zeroed() };
        assert!(dataplane.set_settings(&settings)?);
        assert!(!dataplane.set_settings(&settings)?);
        assert_eq!(dataplane.settings()?, Some(settings));

        // A device without a record: whatever comes from it is dropped. IPv6 sends by itself when a link comes up.
        let ifindex = veth("a", "b")?;
        dataplane.ensure_tc("a", ifindex, TcProgram::FromContainer)?;
        run("ip link set dev a up")?;
        run("ip link set dev b up")?;
        eventually("a drop is counted", || {
            let drops: HashMap<_, _> = dataplane.drops()?.into_iter().collect();
            Ok(drops[&DropReason::UnknownDevice].packets > 0)
        })?;
        assert!(dataplane.counters()?.iter().all(|(_, counter)| counter.packets == 0));
        assert!(dataplane.flows()?.confirmed.is_empty());

        let memory = dataplane.memory()?;
        assert_eq!(memory.len(), map::ALL.len());
        // An empty trie takes nothing but its head, which the kernel does not count.
        assert!(memory.iter().all(|map| map.bytes > 0 || map.kind == "LpmTrie"), "{memory:?}");
        let programs = dataplane.programs()?;
        assert_eq!(programs.len(), 18);
        for program in programs {
            println!("{program:?}");
            assert!(program.verified_instructions.is_some_and(|count| count < 1_000_000));
        }
        Ok(())
    })
}

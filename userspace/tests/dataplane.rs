//! The dataplane on the real kernel: each test has a network namespace, a directory of pins and a cgroup of its own.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::{HashMap as BpfHashMap, MapData, MapInfo, loaded_maps},
    programs::{links::PinnedLink, loaded_links},
};
use dataplane_common::abi::{
    ABI_VERSION, Address, Device, DeviceRole, DropReason, Endpoint, EndpointKey, Flow, HostSocketKey,
    HostSocketValue, Index, MacAddress, Mapping, MappingKey, Peer, PortSet, Publication, Remote, Settings,
    Subnet, SubnetKey, Tuple, VxlanKey, map,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use weft::{
    dataplane::{
        self, AttachedProgram, Changes, Dataplane, Ensured, Error, Options, Order, Prefix, Sizes, TcProgram,
        publication_prefixes,
    },
    model::PortRange,
};

/// Directory of pins and cgroup of one test, removed at its end, however it ends.
struct Place {
    options: Options,
    cgroup: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weft-test-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .context("no cgroup2 mount")?;
        let cgroup = Path::new(root).join(&name);
        fs::create_dir(&cgroup)?;
        let bpf_dir = Path::new("/sys/fs/bpf").join(name);
        let options = Options { bpf_dir, cgroup: Some(cgroup.clone()), sizes: Sizes::default() };
        Ok(Self { options, cgroup })
    }

    fn open(&self) -> Result<Dataplane, Error> {
        Dataplane::open(&self.options)
    }

    fn maps(&self) -> PathBuf {
        self.options.bpf_dir.join(format!("v{ABI_VERSION}/maps"))
    }

    fn links(&self) -> PathBuf {
        self.options.bpf_dir.join(format!("v{ABI_VERSION}/links"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not by teardown(), which is under test.
        let _ = fs::remove_dir_all(&self.options.bpf_dir);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Runs a test in a thread of its own in a network namespace of its own, which ends with the thread.
fn in_namespace(test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        test()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn run(command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let output =
        Command::new(words.next().unwrap_or_default()).args(words).output().context(command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A veth pair in the current namespace; the first device's index.
fn veth(name: &str, peer: &str) -> Result<u32> {
    run(&format!("ip link add name {name} type veth peer name {peer}"))?;
    Ok(nix::net::if_::if_nametoindex(name)?)
}

fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// An ABI struct with every field zero.
fn zeroed<T: bytemuck::Zeroable>() -> T {
    T::zeroed()
}

fn v4(last: u32) -> Address {
    Address::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + last)))
}

fn device(mtu: u32) -> Device {
    Device { role: DeviceRole::CONTAINER, mtu, ..zeroed() }
}

fn endpoint_key(number: u32) -> EndpointKey {
    EndpointKey { network: 1, address: v4(number) }
}

fn only(attached: Vec<AttachedProgram>) -> Result<AttachedProgram> {
    ensure!(attached.len() == 1, "{attached:?}");
    attached.into_iter().next().context("none")
}

#[test]
fn a_restart_keeps_maps_and_links_and_replaces_programs_in_place() -> Result<()> {
    in_namespace(|| {
        let place = Place::new()?;
        let ifindex = veth("a", "b")?;
        let mut first = place.open()?;
        first.tables.devices.set(&ifindex, &device(1400))?;
        assert_eq!(first.ensure_tc("a", ifindex, TcProgram::FromContainer)?, Ensured::Attached);
        let before = only(first.attached()?)?;
        assert!(before.live && before.current, "{before:?}");
        assert_eq!((before.program, before.ifindex), ("from_container", Some(ifindex)));
        assert!(first.ensure_host_sockets()?.iter().all(|(_, ensured)| *ensured == Ensured::Attached));
        let hooks_before: HashMap<_, _> =
            first.attached()?.into_iter().map(|link| (link.program, link.link_id)).collect();
        assert_eq!(hooks_before.len(), 11);
        drop(first);

        let second = place.open()?;
        assert_eq!(second.tables.devices.dump()?, HashMap::from([(ifindex, device(1400))]));
        assert_eq!(second.kept_sizes(), []);
        let taken_over = second.attached()?;
        assert!(taken_over.iter().all(|link| link.live && !link.current), "{taken_over:?}");
        assert_eq!(second.ensure_tc("a", ifindex, TcProgram::FromContainer)?, Ensured::Updated);
        assert!(second.ensure_host_sockets()?.iter().all(|(_, ensured)| *ensured == Ensured::Updated));
        let after = second.attached()?;
        assert!(after.iter().all(|link| link.live && link.current), "{after:?}");
        assert!(after.iter().all(|link| link.program_id != before.program_id));
        let hooks_after: HashMap<_, _> = after.into_iter().map(|link| (link.program, link.link_id)).collect();
        assert_eq!(hooks_after, hooks_before, "links were made anew");
        assert_eq!(second.ensure_tc("a", ifindex, TcProgram::FromContainer)?, Ensured::Unchanged);
        assert!(second.ensure_host_sockets()?.iter().all(|(_, ensured)| *ensured == Ensured::Unchanged));
        Ok(())
    })
}

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
    for part in ["devices", "value size 8", "72", "weft teardown"] {
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
fn a_large_table_is_synchronised_by_its_difference() -> Result<()> {
    let place = Place::new()?;
    let mut dataplane = place.open()?;
    let remotes = &mut dataplane.tables.remotes;
    let value = |peer| Remote { peer, mac: MacAddress { octets: [2, 0, 0, 0, 0, 1] }, reserved: 0 };
    let mut desired: HashMap<_, _> = (0..60_000).map(|number| (endpoint_key(number), value(1))).collect();
    let began = Instant::now();
    assert_eq!(remotes.sync(&desired)?, Changes { added: 60_000, changed: 0, removed: 0 });
    let filled = began.elapsed();
    let began = Instant::now();
    assert!(remotes.sync(&desired)?.is_empty());
    println!("60,000 entries: filled in {filled:?}, compared in {:?}", began.elapsed());
    assert_eq!(remotes.dump()?, desired);

    desired.insert(endpoint_key(5), value(2));
    desired.insert(endpoint_key(70_000), value(3));
    desired.insert(endpoint_key(70_001), value(3));
    for gone in 100..103 {
        desired.remove(&endpoint_key(gone));
    }
    assert_eq!(remotes.sync(&desired)?, Changes { added: 2, changed: 1, removed: 3 });
    assert_eq!(remotes.dump()?, desired);

    // What somebody else has done to the map is found and mended.
    assert!(remotes.remove(&endpoint_key(7))?);
    assert!(!remotes.remove(&endpoint_key(7))?);
    remotes.set(&endpoint_key(8), &value(9))?;
    assert_eq!(remotes.sync(&desired)?, Changes { added: 1, changed: 1, removed: 0 });
    assert_eq!(remotes.sync_ordered(&HashMap::new(), Order::RemoveFirst)?.removed, desired.len());
    assert!(remotes.dump()?.is_empty());
    Ok(())
}

#[test]
fn a_full_table_is_exchanged_and_an_overfull_one_refused() -> Result<()> {
    let mut place = Place::new()?;
    place.options.sizes.max_endpoints = Some(4);
    let mut dataplane = place.open()?;
    let devices = &mut dataplane.tables.devices;
    let content =
        |range: std::ops::Range<u32>| range.map(|index| (index, device(1500))).collect::<HashMap<_, _>>();
    devices.sync(&content(0..4))?;
    assert_eq!(devices.sync(&content(10..14))?, Changes { added: 4, changed: 0, removed: 4 });
    assert_eq!(devices.dump()?, content(10..14));
    assert!(matches!(
        devices.sync(&content(0..5)),
        Err(Error::MapFull { map: map::DEVICES, max_entries: 4 })
    ));
    Ok(())
}

#[test]
fn prefixes_are_synchronised() -> Result<()> {
    let place = Place::new()?;
    let mut dataplane = place.open()?;
    let publication = Publication { first_host_port: 1000, ..zeroed() };
    let mut desired = HashMap::new();
    for host in 0..200 {
        let range = PortRange { first: 1001, last: 64_000 };
        desired.extend(publication_prefixes(6, &v4(host), range).into_iter().map(|key| (key, publication)));
    }
    let table = &mut dataplane.tables.published;
    assert_eq!(table.sync(&desired)?.added, desired.len());
    assert!(desired.len() > 2048, "must not fit one batch");
    assert_eq!(table.dump()?, desired);
    assert!(table.sync(&desired)?.is_empty());

    let subnets = &mut dataplane.tables.subnets;
    let key = |bits| Prefix::new(bits, SubnetKey { address: v4(0x1234) });
    let wanted = HashMap::from([
        (key(96 + 8), Subnet { network: 1, flags: 0 }),
        (key(96 + 24), Subnet { network: 2, flags: 0 }),
    ]);
    assert_eq!(subnets.sync(&wanted)?.added, 2);
    assert_eq!(subnets.sync(&HashMap::from([(key(96 + 8), Subnet { network: 1, flags: 0 })]))?.removed, 1);
    Ok(())
}

#[test]
fn a_port_set_becomes_what_it_should_be() -> Result<()> {
    let place = Place::new()?;
    let mut dataplane = place.open()?;
    let sets = &mut dataplane.tables.port_sets;
    assert_eq!(sets.sync(PortSet::RESERVED_UDP, [0, 63, 64, 4789, 65_535])?, 4);
    assert_eq!(sets.sync(PortSet::RESERVED_UDP, [65_535, 0, 63, 64, 4789])?, 0);
    assert_eq!(sets.sync(PortSet::PUBLISHED_TCP, [80])?, 1);
    assert_eq!(sets.sync(PortSet::RESERVED_UDP, [0, 63, 64, 53])?, 3);
    assert_eq!(sets.ports(PortSet::RESERVED_UDP)?, [0, 53, 63, 64]);
    assert_eq!(sets.ports(PortSet::PUBLISHED_TCP)?, [80]);
    assert!(sets.ports(PortSet::RESERVED_TCP)?.is_empty());
    Ok(())
}

#[test]
fn what_is_detached_behind_our_back_is_repaired_and_others_stay() -> Result<()> {
    in_namespace(|| {
        let (place, neighbour_place) = (Place::new()?, Place::new()?);
        let (ours, neighbour) = (place.open()?, neighbour_place.open()?);
        let ifindex = veth("a", "b")?;
        let program = TcProgram::ToContainer;
        let pin = place.links().join(format!("to_container-{ifindex}"));
        neighbour.ensure_tc("a", ifindex, program)?;
        let theirs = only(neighbour.attached()?)?;
        ours.ensure_tc("a", ifindex, program)?;
        let order = |expected: &[u32]| -> Result<()> {
            let (_, programs) =
                aya::programs::SchedClassifier::query_tcx("a", aya::programs::TcAttachType::Egress)?;
            assert_eq!(programs.iter().map(|program| program.id()).collect::<Vec<_>>(), expected);
            Ok(())
        };
        let own_id = only(ours.attached()?)?.program_id;
        order(&[own_id, theirs.program_id])?;

        run(&format!("bpftool link detach pinned {}", pin.display()))?;
        order(&[theirs.program_id])?;
        assert!(!only(ours.attached()?)?.live);
        assert_eq!(ours.ensure_tc("a", ifindex, program)?, Ensured::Repaired);
        order(&[own_id, theirs.program_id])?;

        // The pin goes; the kernel may or may not have got round to freeing the link.
        fs::remove_file(&pin)?;
        assert_ne!(ours.ensure_tc("a", ifindex, program)?, Ensured::Unchanged);
        order(&[own_id, theirs.program_id])?;

        // The pin goes while somebody holds the link: it is adopted.
        let held = PinnedLink::from_pin(&pin)?;
        let link_id = only(ours.attached()?)?.link_id;
        fs::remove_file(&pin)?;
        assert_eq!(ours.ensure_tc("a", ifindex, program)?, Ensured::Repaired);
        assert_eq!(only(ours.attached()?)?.link_id, link_id);
        drop(held);
        order(&[own_id, theirs.program_id])?;

        // Another device gets the index.
        run("ip link del dev a")?;
        assert!(!only(ours.attached()?)?.live);
        assert!(matches!(ours.ensure_tc("a", ifindex, program), Err(Error::NoDevice { .. })));
        run(&format!("ip link add name a index {ifindex} type veth peer name b"))?;
        assert_eq!(ours.ensure_tc("a", ifindex, program)?, Ensured::Repaired);
        order(&[own_id])?;
        assert_eq!(ours.detach(ifindex)?, 1);
        assert_eq!(ours.detach(ifindex)?, 0);
        order(&[])?;
        assert!(!pin.exists());
        Ok(())
    })
}

#[test]
fn a_link_of_the_same_index_in_another_namespace_is_not_ours() -> Result<()> {
    let (place, index) = (Place::new()?, 4711);
    let dataplane = place.open()?;
    let add = format!("ip link add name a index {index} type veth peer name b");
    thread::scope(|scope| {
        let namespace = |expected| {
            let (dataplane, add) = (&dataplane, &add);
            scope.spawn(move || -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                run(add)?;
                assert_eq!(dataplane.ensure_tc("a", index, TcProgram::FromUplink)?, expected);
                assert_eq!(dataplane.ensure_tc("a", index, TcProgram::FromUplink)?, Ensured::Unchanged);
                if expected == Ensured::Attached {
                    // Both namespaces exist at once: a thread keeps its own.
                    scope
                        .spawn(move || -> Result<()> {
                            unshare(CloneFlags::CLONE_NEWNET)?;
                            run(add)?;
                            let ensured = dataplane.ensure_tc("a", index, TcProgram::FromUplink)?;
                            assert_eq!(ensured, Ensured::Repaired);
                            Ok(())
                        })
                        .join()
                        .map_err(|_| anyhow::anyhow!("inner thread panicked"))??;
                }
                Ok(())
            })
        };
        namespace(Ensured::Attached).join().map_err(|_| anyhow::anyhow!("thread panicked"))?
    })
}

#[test]
fn socket_hooks_are_repaired() -> Result<()> {
    let place = Place::new()?;
    let dataplane = place.open()?;
    dataplane.ensure_host_sockets()?;
    run(&format!("bpftool link detach pinned {}", place.links().join("bind4").display()))?;
    fs::remove_file(place.links().join("connect6"))?;
    let ensured: HashMap<_, _> = dataplane.ensure_host_sockets()?.into_iter().collect();
    assert_eq!(ensured["bind4"], Ensured::Repaired);
    assert_eq!(ensured["connect6"], Ensured::Attached);
    assert_eq!(ensured.values().filter(|one| **one == Ensured::Unchanged).count(), 8);
    assert!(dataplane.attached()?.iter().all(|link| link.live && link.current));
    Ok(())
}

#[test]
fn teardown_leaves_nothing() -> Result<()> {
    in_namespace(|| {
        let place = Place::new()?;
        let ifindex = veth("a", "b")?;
        let dataplane = place.open()?;
        dataplane.ensure_tc("a", ifindex, TcProgram::FromContainer)?;
        dataplane.ensure_host_sockets()?;
        let links: Vec<u32> = dataplane.attached()?.iter().map(|link| link.link_id).collect();
        let programs: Vec<u32> = dataplane.programs()?.iter().map(|program| program.id).collect();
        let maps = map::ALL
            .iter()
            .map(|name| Ok(MapInfo::from_pin(place.maps().join(name))?.id()))
            .collect::<Result<Vec<u32>>>()?;
        drop(dataplane);
        // Pins of an older version, and something that is not weft's.
        let bpf_dir = &place.options.bpf_dir;
        let old = bpf_dir.join("v0/maps");
        fs::create_dir_all(&old)?;
        fs::create_dir(bpf_dir.join("v0/links"))?;
        BpfHashMap::<MapData, u32, u32>::create(1, 0)?.pin(old.join("conntrack"))?;
        let foreign = place.maps().join("NotOurs");
        fs::create_dir(&foreign)?;

        match dataplane::teardown(bpf_dir) {
            Err(Error::Teardown(left)) => assert!(left.len() == 1 && left[0].contains("NotOurs"), "{left:?}"),
            other => bail!("{other:?}"),
        }
        assert!(foreign.exists() && !old.exists());
        fs::remove_dir(&foreign)?;
        assert_eq!(dataplane::teardown(bpf_dir)?, dataplane::Removed::default());
        assert!(!bpf_dir.exists());
        assert_eq!(dataplane::teardown(bpf_dir)?, dataplane::Removed::default());

        // Objects may disappear while they are listed: such entries are not ours, ours are gone or about to be.
        eventually("links are gone", || {
            Ok(!loaded_links().flatten().any(|link| links.contains(&link.id())))
        })?;
        eventually("programs are gone", || {
            Ok(!aya::programs::loaded_programs().flatten().any(|program| programs.contains(&program.id())))
        })?;
        eventually("maps are gone", || Ok(!loaded_maps().flatten().any(|map| maps.contains(&map.id()))))
    })
}

#[test]
fn teardown_counts_and_stays_in_its_file_system() -> Result<()> {
    let place = Place::new()?;
    let dataplane = place.open()?;
    dataplane.ensure_host_sockets()?;
    drop(dataplane);
    let removed = dataplane::teardown(&place.options.bpf_dir)?;
    assert_eq!((removed.links, removed.maps), (10, map::ALL.len()));
    let elsewhere = tempfile::tempdir()?;
    fs::create_dir_all(elsewhere.path().join("v1/maps"))?;
    assert!(matches!(dataplane::teardown(elsewhere.path()), Err(Error::BpfDirectory { .. })));
    assert!(elsewhere.path().join("v1/maps").exists());
    let outside = Options { bpf_dir: elsewhere.path().join("weft"), ..place.options.clone() };
    assert!(matches!(Dataplane::open(&outside), Err(Error::BpfDirectory { .. })));
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
    tables.ports.set(&tuple, &Index { inside: tuple })?;
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
        assert_eq!(dataplane.expire_flows()?, 0);
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
        assert_eq!(programs.len(), 15);
        for program in programs {
            println!("{program:?}");
            assert!(program.verified_instructions.is_some_and(|count| count < 1_000_000));
        }
        Ok(())
    })
}

#[test]
fn asking_for_what_is_there_is_cheap() -> Result<()> {
    const DEVICES: u32 = 100;
    in_namespace(|| {
        let place = Place::new()?;
        let mut dataplane = place.open()?;
        let devices = (0..DEVICES)
            .map(|number| Ok((format!("a{number}"), veth(&format!("a{number}"), &format!("b{number}"))?)))
            .collect::<Result<Vec<_>>>()?;
        let round = |dataplane: &Dataplane, expected| -> Result<Duration> {
            let began = Instant::now();
            for (name, ifindex) in &devices {
                for program in [TcProgram::FromContainer, TcProgram::ToContainer] {
                    assert_eq!(dataplane.ensure_tc(name, *ifindex, program)?, expected);
                }
            }
            Ok(began.elapsed() / (2 * DEVICES))
        };
        let attached = round(&dataplane, Ensured::Attached)?;
        drop(dataplane);
        dataplane = place.open()?;
        let updated = round(&dataplane, Ensured::Updated)?;
        let unchanged = round(&dataplane, Ensured::Unchanged)?;
        println!("per link: attached in {attached:?}, updated in {updated:?}, found in {unchanged:?}");
        // 4,000 links within a tenth of a second would be 25 µs each; a busy machine gets twenty times that.
        assert!(unchanged < Duration::from_micros(500), "{unchanged:?}");
        let began = Instant::now();
        assert_eq!(dataplane.attached()?.len(), 2 * DEVICES as usize);
        println!("listed {} links in {:?}", 2 * DEVICES, began.elapsed());
        Ok(())
    })
}

/// Places of earlier runs that were killed would hide what this one leaves.
#[test]
fn places_are_removed_after_a_panic() -> Result<()> {
    let place = Place::new()?;
    let (bpf_dir, cgroup) = (place.options.bpf_dir.clone(), place.cgroup.clone());
    let outcome = thread::spawn(move || {
        let _dataplane = place.open();
        let _place = place;
        std::panic::resume_unwind(Box::new(()));
    })
    .join();
    assert!(outcome.is_err());
    for path in [bpf_dir, cgroup] {
        assert_eq!(fs::metadata(&path).map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    }
    Ok(())
}

//! What is left when weft goes: nothing.

use std::{fs, io, thread};

use anyhow::{Result, bail};
use aya::{
    maps::{HashMap as BpfHashMap, MapData, MapInfo, loaded_maps},
    programs::loaded_links,
};
use dataplane_common::abi::map;
use weft::dataplane::{self, Dataplane, Error, Options, TcProgram};

use crate::place::{Place, eventually, in_namespace, veth};

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

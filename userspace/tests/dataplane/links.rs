//! Programs on devices and cgroups.

use std::{
    collections::HashMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::links::PinnedLink;
use nix::sched::{CloneFlags, unshare};
use weft::dataplane::{AttachedProgram, Dataplane, Ensured, Error, TcProgram};

use crate::place::{Place, device, in_namespace, run, veth};

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

//! Tables become what they should be.

use std::{collections::HashMap, time::Instant};

use anyhow::Result;
use dataplane_common::abi::{MacAddress, PortSet, Publication, Remote, Subnet, SubnetKey, map};
use weft::{
    dataplane::{Changes, Error, Order, Prefix, publication_prefixes},
    model::PortRange,
};

use crate::place::{Place, device, endpoint_key, v4, zeroed};

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

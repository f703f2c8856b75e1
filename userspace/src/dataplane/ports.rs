//! Ports: ranges as prefixes of map `published`, sets as bitmaps of map `port_sets`.

use std::collections::HashMap;

use dataplane_common::abi::{Address, PortSet, PublicationKey};

use super::{Prefix, Result, Table};
use crate::model::PortRange;

/// The smallest set of prefixes that covers these host ports and nothing else: at most 30.
pub fn publication_prefixes(
    protocol: u8,
    address: &Address,
    ports: PortRange,
) -> Vec<Prefix<PublicationKey>> {
    let mut prefixes = Vec::new();
    let (mut port, end) = (u32::from(ports.first), u32::from(ports.last) + 1);
    while port < end {
        // The largest aligned block that begins here and does not go past the end.
        let alignment = port.trailing_zeros().min(16);
        let fitting = (end - port).ilog2();
        let block = alignment.min(fitting);
        // `port` is below `end`, so at most 65535.
        prefixes.push(Prefix::new(
            PublicationKey::BITS - block,
            PublicationKey::new(protocol, address, port as u16),
        ));
        port += 1 << block;
    }
    prefixes
}

/// Map `port_sets`: sets of ports as bitmaps.
#[derive(Debug)]
pub struct PortSets {
    pub(super) words: Table<u32, PortSet>,
}

impl PortSets {
    /// Makes one of the sets ([`PortSet::RESERVED_TCP`] and so on) contain exactly these ports. Only words that differ
    /// are written; answers how many.
    pub fn sync(&mut self, set: u32, ports: impl IntoIterator<Item = u16>) -> Result<usize> {
        let range = set * PortSet::WORDS..(set + 1) * PortSet::WORDS;
        let mut wanted: HashMap<u32, PortSet> = range.map(|index| (index, PortSet { bits: 0 })).collect();
        for port in ports {
            if let Some(word) = wanted.get_mut(&PortSet::index(set, port)) {
                word.bits |= 1 << (port % 64);
            }
        }
        self.words.for_each(|index, word| {
            if wanted.get(index) == Some(word) {
                wanted.remove(index);
            }
        })?;
        for (index, word) in &wanted {
            self.words.set(index, word)?;
        }
        Ok(wanted.len())
    }

    /// The ports of a set, ascending.
    pub fn ports(&self, set: u32) -> Result<Vec<u16>> {
        let mut ports = Vec::new();
        self.words.for_each(|&index, word| {
            if index / PortSet::WORDS == set {
                let first = index % PortSet::WORDS * 64;
                let bits = (0..64).filter(|bit| word.bits >> bit & 1 == 1);
                // At most 1023 * 64 + 63.
                ports.extend(bits.map(|bit| (first + bit) as u16));
            }
        })?;
        ports.sort_unstable();
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// First port and number of ports of a prefix.
    fn block(prefix: &Prefix<PublicationKey>) -> (u32, u32) {
        let first = u32::from(u16::from_be_bytes(prefix.key().port));
        (first, 1 << (PublicationKey::BITS - prefix.bits()))
    }

    proptest! {
        #[test]
        fn a_range_is_covered_exactly_and_by_few(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = publication_prefixes(6, &Address::UNSPECIFIED, PortRange { first, last });
            prop_assert!(prefixes.len() <= 30);
            let mut next = u32::from(first);
            for prefix in &prefixes {
                let (port, count) = block(prefix);
                prop_assert_eq!(port, next);
                prop_assert_eq!(port % count, 0, "a prefix is an aligned block");
                next = port + count;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
            for pair in prefixes.windows(2) {
                let ((low, count), (_, other)) = (block(&pair[0]), block(&pair[1]));
                prop_assert!(count != other || low % (2 * count) != 0, "two halves of one block");
            }
        }
    }

    #[test]
    fn one_port_and_all_ports_are_one_prefix() {
        let one = publication_prefixes(17, &Address::UNSPECIFIED, PortRange::single(53));
        assert_eq!(
            one,
            vec![Prefix::new(PublicationKey::BITS, PublicationKey::new(17, &Address::UNSPECIFIED, 53))]
        );
        let all = publication_prefixes(17, &Address::UNSPECIFIED, PortRange { first: 0, last: u16::MAX });
        assert_eq!(all.iter().map(Prefix::bits).collect::<Vec<_>>(), [PublicationKey::FIXED_BITS]);
    }

    #[test]
    fn the_longest_list_has_thirty_prefixes() {
        assert_eq!(
            publication_prefixes(6, &Address::UNSPECIFIED, PortRange { first: 1, last: 65534 }).len(),
            30
        );
    }
}

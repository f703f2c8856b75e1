//! Sets of ports, in the kernel's notation.

use std::{fmt, str::FromStr};

use crate::model::{PerProtocol, PortRange};

/// A set of ports, kept as sorted ranges with a gap between each two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges(Vec<PortRange>);

/// The text is not a list of ports and ranges such as `80,8000-8010`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a port or a range of ports; write for example 80,8000-8010")]
pub struct InvalidPortRanges(String);

impl PortRanges {
    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is no port in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of ports.
    pub fn count(&self) -> u32 {
        self.iter().map(PortRange::count).sum()
    }

    /// Whether the set holds a port.
    pub fn contains(&self, port: u16) -> bool {
        let next = self.0.partition_point(|range| range.last < port);
        self.0.get(next).is_some_and(|range| range.first <= port)
    }

    /// The ports of either set.
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// The ports of this set that are not in the other one.
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut holes = other.0.as_slice();
        for range in self.iter() {
            let mut first = u32::from(range.first);
            // A hole may reach into the next range, so the last one is looked at again.
            while let Some((hole, rest)) = holes.split_first().filter(|(hole, _)| hole.first <= range.last) {
                if u32::from(hole.first) > first {
                    left.push(PortRange { first: first as u16, last: hole.first - 1 });
                }
                first = first.max(u32::from(hole.last) + 1);
                if hole.last > range.last {
                    break;
                }
                holes = rest;
            }
            if first <= u32::from(range.last) {
                left.push(PortRange { first: first as u16, last: range.last });
            }
        }
        Self(left)
    }
}

impl PerProtocol<PortRanges> {
    /// Ports of any protocol.
    pub fn union(&self) -> PortRanges {
        self.tcp.union(&self.udp).union(&self.sctp)
    }
}

impl FromIterator<PortRange> for PortRanges {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| range.first <= range.last).collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromIterator<u16> for PortRanges {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        ports.into_iter().map(PortRange::single).collect()
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(out, "{separator}{range}")?;
        }
        Ok(())
    }
}

impl FromStr for PortRanges {
    type Err = InvalidPortRanges;

    fn from_str(text: &str) -> Result<Self, InvalidPortRanges> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(',')
            .map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                match (first.trim().parse(), last.trim().parse()) {
                    (Ok(first), Ok(last)) if first <= last => Ok(PortRange { first, last }),
                    _ => Err(InvalidPortRanges(part.to_owned())),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ports(set: &PortRanges) -> BTreeSet<u16> {
        set.iter().flat_map(|range| range.first..=range.last).collect()
    }

    /// Small numbers so that ranges meet, and both ends of the port space.
    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![0_u16..40, 65_500_u16..=65_535]
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(a in prop::collection::vec((port(), 0_u16..6), 0..12),
                              b in prop::collection::vec((port(), 0_u16..6), 0..12)) {
            let build = |list: Vec<(u16, u16)>| -> PortRanges {
                list.into_iter().map(|(first, more)| PortRange { first, last: first.saturating_add(more) }).collect()
            };
            let (a, b) = (build(a), build(b));
            prop_assert_eq!(ports(&a.union(&b)), &ports(&a) | &ports(&b));
            prop_assert_eq!(ports(&a.difference(&b)), &ports(&a) - &ports(&b));
            prop_assert_eq!(a.to_string().parse::<PortRanges>(), Ok(a.clone()));
            prop_assert_eq!(a.count() as usize, ports(&a).len());
            for port in (0..50).chain(65_490..=65_535) {
                prop_assert_eq!(a.contains(port), ports(&a).contains(&port));
            }
        }
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["x", "1,,2", "5-3", "65536", "-1", "1-", "1-2-3"] {
            assert!(text.parse::<PortRanges>().is_err(), "{text}");
        }
    }
}

//! Maps as typed tables that can be made equal to a wanted content.

use std::{
    any::type_name,
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::MapData;
use bytemuck::{Pod, Zeroable};
use dataplane_common::abi::{PublicationKey, SubnetKey};

use super::{Error, Result, sys};

/// Elements read with one system call, at least; fewer calls for large maps, 64 KiB or so of buffer.
const BATCH: usize = 1024;

/// Key of a longest-prefix-match table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix<K> {
    bits: u32,
    key: K,
}

impl<K: Pod> Prefix<K> {
    /// A prefix of `bits` bits; what follows them in the key is set to zero, so that equal prefixes are equal keys.
    pub fn new(bits: u32, mut key: K) -> Self {
        let bits = bits.min(size_of::<K>() as u32 * 8);
        let whole = bits as usize / 8;
        let bytes = bytemuck::bytes_of_mut(&mut key);
        if let Some(rest) = bytes.get_mut(whole..) {
            let kept = !(0xff_u8.checked_shr(bits % 8).unwrap_or(0));
            for (at, byte) in rest.iter_mut().enumerate() {
                *byte = if at == 0 { *byte & kept } else { 0 };
            }
        }
        Self { bits, key }
    }

    /// Length in bits.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The key, zero after the prefix.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: fmt::Debug> fmt::Debug for Prefix<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.key, self.bits)
    }
}

/// The two key types have no padding behind the length; a generic implementation could not promise that.
macro_rules! prefix_is_pod {
    ($($key:ty),*) => {$(
        const _: () = assert!(size_of::<Prefix<$key>>() == 4 + size_of::<$key>());
        // SAFETY: all-zero bytes are valid for both fields.
        unsafe impl Zeroable for Prefix<$key> {}
        // SAFETY: repr(C), both fields are Pod, no padding (asserted above).
        unsafe impl Pod for Prefix<$key> {}
    )*};
}
prefix_is_pod!(PublicationKey, SubnetKey);

/// What [`Table::sync`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries that were missing.
    pub added: usize,
    /// Entries that had another value.
    pub changed: usize,
    /// Entries that should not be there.
    pub removed: usize,
}

impl Changes {
    /// Whether the kernel held all of it already.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What [`Table::sync_ordered`] does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// New and changed entries, then removals: for what must work without a gap.
    AddFirst,
    /// Removals, then new and changed entries: for what must never permit more than either state.
    RemoveFirst,
}

/// A hash, longest-prefix-match or array map with keys `K` and values `V`.
///
/// Reading and writing is by batches: a table of 60,000 entries is compared with some 60 system calls.
#[derive(Debug)]
pub struct Table<K, V> {
    map: MapData,
    name: &'static str,
    max_entries: u32,
    entries: PhantomData<fn(K) -> V>,
}

impl<K: Pod + Eq + Hash, V: Pod + PartialEq> Table<K, V> {
    /// Wraps a map after checking that the kernel's map has the sizes of the types.
    pub(super) fn new(name: &'static str, map: MapData) -> Result<Self> {
        let info = map.info().map_err(|error| Error::Object(format!("map {name}: {error}")))?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        if (key, value) != (size_of::<K>(), size_of::<V>()) {
            return Err(Error::Object(format!(
                "map {name} has keys of {key} and values of {value} bytes, not those of {} and {}",
                type_name::<K>(),
                type_name::<V>()
            )));
        }
        Ok(Self { map, name, max_entries: info.max_entries(), entries: PhantomData })
    }

    /// Name of the map.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Most entries it can hold.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    pub(super) fn map(&self) -> &MapData {
        &self.map
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Everything the kernel holds.
    pub fn dump(&self) -> Result<HashMap<K, V>> {
        let mut found = HashMap::new();
        self.for_each(|key, value| {
            found.insert(*key, *value);
        })?;
        Ok(found)
    }

    /// Calls `visit` for each entry. Entries that programs insert or remove meanwhile may or may not be seen.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<()> {
        let mut room = BATCH.min(self.max_entries.max(1) as usize);
        let mut keys = vec![K::zeroed(); room];
        let mut values = vec![V::zeroed(); room];
        // A position is a bucket number for hash maps and the last key for others.
        let mut position = vec![0_u8; size_of::<K>().max(4)];
        let mut next = position.clone();
        let mut first = true;
        loop {
            let from = (!first).then_some(position.as_slice());
            // SAFETY: the sizes were compared with the kernel's in `new`.
            match unsafe { sys::lookup_batch(self.fd(), from, &mut next, &mut keys, &mut values) } {
                Ok(batch) => {
                    keys.iter().zip(&values).take(batch.count).for_each(|(key, value)| visit(key, value));
                    if batch.end {
                        return Ok(());
                    }
                    std::mem::swap(&mut position, &mut next);
                    first = false;
                }
                // One hash bucket holds more than `room`: nothing has been read, the position has not moved.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC) && room < self.max_entries as usize =>
                {
                    room = (room * 2).min(self.max_entries as usize);
                    keys.resize(room, K::zeroed());
                    values.resize(room, V::zeroed());
                }
                Err(error) => return Err(Error::system(format!("read map {}", self.name))(error)),
            }
        }
    }

    /// Inserts or replaces one entry.
    pub fn set(&mut self, key: &K, value: &V) -> Result<()> {
        self.write(std::slice::from_ref(key), std::slice::from_ref(value))
    }

    /// Removes one entry; `false` if there was none.
    pub fn remove(&mut self, key: &K) -> Result<bool> {
        Ok(self.delete(std::slice::from_ref(key))? == 1)
    }

    /// Makes the kernel's content equal to `desired`, additions and changes before removals.
    pub fn sync(&mut self, desired: &HashMap<K, V>) -> Result<Changes> {
        self.sync_ordered(desired, Order::AddFirst)
    }

    /// Makes the kernel's content equal to `desired`, touching only what differs. `AddFirst` yields where old and new
    /// entries together have no room in the map.
    pub fn sync_ordered(&mut self, desired: &HashMap<K, V>, order: Order) -> Result<Changes> {
        let mut changes = Changes::default();
        let mut present = 0;
        let mut known = Vec::new();
        let mut superfluous = Vec::new();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        self.for_each(|key, value| {
            present += 1;
            match desired.get(key) {
                None => superfluous.push(*key),
                Some(wanted) => {
                    known.push(*key);
                    if wanted != value {
                        keys.push(*key);
                        values.push(*wanted);
                    }
                }
            }
        })?;
        changes.changed = keys.len();
        // Usually nothing is missing, and then 60,000 keys need not be hashed a second time.
        if known.len() < desired.len() {
            let known: HashSet<K> = known.into_iter().collect();
            for (key, value) in desired.iter().filter(|(key, _)| !known.contains(key)) {
                keys.push(*key);
                values.push(*value);
            }
        }
        changes.added = keys.len() - changes.changed;

        if order == Order::RemoveFirst || present + changes.added > self.max_entries as usize {
            changes.removed = self.delete(&superfluous)?;
            self.write(&keys, &values)?;
        } else {
            self.write(&keys, &values)?;
            changes.removed = self.delete(&superfluous)?;
        }
        Ok(changes)
    }

    /// Writes and then removes (`None`) single entries, whatever else there is.
    pub fn update(&mut self, entries: &HashMap<K, Option<V>>) -> Result<Changes> {
        let superfluous: Vec<K> =
            entries.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| *key).collect();
        let (keys, values): (Vec<K>, Vec<V>) =
            entries.iter().filter_map(|(key, value)| Some((*key, (*value)?))).unzip();
        self.write(&keys, &values)?;
        Ok(Changes { added: keys.len(), changed: 0, removed: self.delete(&superfluous)? })
    }

    fn write(&self, keys: &[K], values: &[V]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        // SAFETY: the sizes were compared with the kernel's in `new`; both slices come from the same pairs.
        match unsafe { sys::update_batch(self.fd(), keys, values) } {
            Ok(()) => Ok(()),
            // Hash maps answer E2BIG, tries ENOSPC.
            Err((_, error)) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => {
                Err(Error::MapFull { map: self.name, max_entries: self.max_entries })
            }
            Err((_, error)) => Err(self.write_error(error)),
        }
    }

    /// Removes the keys that are there and says how many were.
    fn delete(&self, mut keys: &[K]) -> Result<usize> {
        let mut removed = 0;
        while !keys.is_empty() {
            // SAFETY: the size was compared with the kernel's in `new`.
            match unsafe { sys::delete_batch(self.fd(), keys) } {
                Ok(()) => return Ok(removed + keys.len()),
                // The kernel stops at a key that is not there: go on behind it.
                Err((done, error)) if error.kind() == io::ErrorKind::NotFound => {
                    removed += done;
                    keys = keys.get(done + 1..).unwrap_or_default();
                }
                Err((_, error)) => return Err(self.write_error(error)),
            }
        }
        Ok(removed)
    }

    fn write_error(&self, error: io::Error) -> Error {
        Error::system(format!("write map {}", self.name))(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_forgets_what_is_behind_it() {
        let key = |octets: [u8; 16]| SubnetKey { address: bytemuck::cast(octets) };
        let prefix = Prefix::new(10, key([0xff; 16]));
        let mut expected = [0; 16];
        expected[0] = 0xff;
        expected[1] = 0b1100_0000;
        assert_eq!(prefix.key(), &key(expected));
        assert_eq!(Prefix::new(128, key([7; 16])).key(), &key([7; 16]));
        assert_eq!(Prefix::new(0, key([7; 16])).key(), &key([0; 16]));
        assert_eq!(
            Prefix::new(8, key([7; 16])),
            Prefix::new(8, key([7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
        );
    }
}

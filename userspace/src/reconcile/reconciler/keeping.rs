//! What was chosen is kept before anything is made of it.

use std::collections::BTreeSet;

use super::{Error, Reconciler};
use crate::{
    netdev::PortRanges,
    reconcile::{
        kernel::Kernel,
        leases::{StoreError, journal::Entry},
        sysctls,
    },
};

impl Reconciler {
    /// Keeps the choices, if there are new ones; answers whether there were.
    pub(super) fn keep_leases(&mut self) -> Result<bool, StoreError> {
        let new = self.kept.as_ref() != Some(&self.leases);
        if new {
            self.save_leases()?;
        }
        Ok(new)
    }

    pub(super) fn save_leases(&mut self) -> Result<(), StoreError> {
        self.store.save(&self.leases)?;
        self.kept = Some(self.leases.clone());
        self.journal.begin(self.store.path()).map_err(|error| self.store.io("begin the journal of", error))
    }

    /// Keeps the choices, which are new for these containers of the applied state only.
    pub(super) fn keep_leases_of(&mut self, touched: &BTreeSet<String>) -> Result<(), StoreError> {
        let Some(kept) = &mut self.kept else { return self.save_leases() };
        let entry = Entry::new(&self.leases, kept, touched, &self.applied.state);
        if entry.is_kept(kept) {
            return Ok(());
        }
        let appended = self.journal.append(&entry);
        if appended.map_err(|error| self.store.io("write the journal of", error))? {
            entry.apply(kept);
            Ok(())
        } else {
            self.save_leases()
        }
    }

    /// Has the published ports reserved, each step kept.
    pub(super) fn reserve(&mut self, published: &PortRanges, kernel: &mut Kernel) -> Result<(), Error> {
        let reservation = sysctls::Reservation::begin(&mut self.leases, published)?;
        self.keep_leases()?;
        kernel.reserved = reservation.write(&mut self.leases)?;
        self.keep_leases()?;
        Ok(())
    }
}

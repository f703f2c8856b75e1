//! What was chosen is kept before anything is made of it.

use std::collections::BTreeSet;

use super::{Error, Reconciler};
use crate::{
    netdev::PortRanges,
    reconcile::{
        kernel::Kernel,
        leases::{StoreError, journal::Entry},
        problem::Problem,
        sysctls,
    },
};

/// What came of keeping the choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// There were no new ones.
    Known,
    /// There were, and they are on the disk now.
    Done,
    /// They are not on the disk: nothing may rest on them.
    Failed,
}

impl Keeping {
    /// Whether all choices are on the disk.
    pub(super) fn is_kept(self) -> bool {
        self != Self::Failed
    }
}

impl Reconciler {
    /// Keeps the choices, or has a problem. Where none were ever kept nothing could be served: that is an error.
    pub(super) fn try_to_keep(&mut self, problems: &mut Vec<Problem>) -> Result<Keeping, StoreError> {
        let error = match self.keep_leases() {
            Ok(keeping) => return Ok(keeping),
            Err(error) => error,
        };
        if self.kept.is_none() {
            return Err(error);
        }
        let problem = Problem::new("leases", error);
        if !problems.contains(&problem) {
            problems.push(problem);
        }
        Ok(Keeping::Failed)
    }

    /// Keeps the choices, if there are new ones.
    fn keep_leases(&mut self) -> Result<Keeping, StoreError> {
        if self.kept.as_ref() == Some(&self.leases) {
            return Ok(Keeping::Known);
        }
        self.save_leases()?;
        Ok(Keeping::Done)
    }

    fn save_leases(&mut self) -> Result<(), StoreError> {
        // A save that fails at its end has replaced the file all the same.
        self.journal.doubt();
        self.store.save(&self.leases)?;
        self.kept = Some(self.leases.clone());
        if let Err(error) = self.journal.begin(self.store.path()) {
            // The choices are kept, and a journal of the file before is void. Until one can be begun each new choice
            // writes the file.
            tracing::warn!(%error, "the journal of leases cannot be begun");
        }
        Ok(())
    }

    /// Keeps the choices, which are new for these containers of the applied state only: in the journal, or else in the
    /// lease file.
    pub(super) fn keep_leases_of(&mut self, touched: &BTreeSet<String>) -> Result<(), StoreError> {
        let Some(kept) = &mut self.kept else { return self.save_leases() };
        let entry = Entry::new(&self.leases, kept, touched, &self.applied.state);
        if entry.is_kept(kept) {
            return Ok(());
        }
        match self.journal.append(&entry) {
            Ok(true) => {
                entry.apply(kept);
                return Ok(());
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the journal of leases cannot be written"),
        }
        self.save_leases()
    }

    /// Has the host forward IPv6. What fails is a problem of the networks with IPv6, which keeps no other from its work.
    pub(super) fn forward_ipv6(
        &mut self,
        kernel: &mut Kernel,
        problems: &mut Vec<Problem>,
    ) -> Result<(), StoreError> {
        let devices = kernel.may_hear_routers();
        let done = match sysctls::ipv6_is_due(&mut self.leases, &devices) {
            Ok(true) if self.try_to_keep(problems)?.is_kept() => {
                sysctls::switch_ipv6_on(&mut self.leases, &devices).map(|()| kernel.forwarding_v6 = true)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            problems.push(Problem::new("forwarding of IPv6", error));
        }
        Ok(())
    }

    /// Has the published ports reserved, each step kept: what was not written down before it was added could not be
    /// taken back.
    pub(super) fn reserve(
        &mut self,
        published: &PortRanges,
        kernel: &mut Kernel,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Error> {
        let reservation = sysctls::Reservation::begin(&mut self.leases, published)?;
        if self.keep_reservation(problems)? {
            kernel.reserved = reservation.write(&mut self.leases)?;
            self.keep_reservation(problems)?;
        }
        Ok(())
    }

    /// Keeps what weft reserves, where all other choices are kept.
    fn keep_reservation(&mut self, problems: &mut Vec<Problem>) -> Result<bool, StoreError> {
        // A journal does not have the settings' values from before weft.
        let same = self.kept.as_ref().is_some_and(|kept| kept.sysctls == self.leases.sysctls);
        if same && self.keep_leases_of(&BTreeSet::new()).is_ok() {
            return Ok(true);
        }
        Ok(self.try_to_keep(problems)?.is_kept())
    }
}

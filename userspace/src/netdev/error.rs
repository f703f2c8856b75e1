//! Errors of netlink operations: what was tried, where, why it failed and what to do.

use std::io;

use nix::errno::Errno;

/// Result of this module's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed netlink, namespace or sysctl operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("cannot {operation} in {namespace}: {errno}{}{}", detail(message), hint(*errno))]
    Kernel {
        /// What was asked, as in "set device br0 up".
        operation: String,
        /// The namespace it was asked in.
        namespace: String,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own words (netlink extended acknowledgement), where it has any.
        message: Option<String>,
    },
    /// A device with a name that weft needs exists and was not made by weft.
    #[error(
        "device {device} in {namespace} is not weft's ({found}, weft expects {expected}); \
         rename or remove that device, or give the network another device name"
    )]
    NotOurs {
        /// Name of the device.
        device: String,
        /// The namespace it is in.
        namespace: String,
        /// Kind and alias it has.
        found: String,
        /// Kind and alias it would have if it were weft's.
        expected: String,
    },
    /// A device that the operation needs does not exist.
    #[error("device {device} does not exist in {namespace}; it was removed or never made")]
    NoDevice {
        /// Name or index of the device.
        device: String,
        /// The namespace it was looked for in.
        namespace: String,
    },
    /// A network namespace that cannot be used.
    #[error("{namespace} cannot be used: {reason}")]
    Namespace {
        /// The namespace.
        namespace: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A list kept changing while it was read, or the kernel ended it early.
    #[error("cannot {operation} in {namespace}: the list kept changing while it was read; try again")]
    Interrupted {
        /// What was asked.
        operation: String,
        /// The namespace it was asked in.
        namespace: String,
    },
    /// A system call or a file of the proc file system failed.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was tried, with the path where there is one.
        operation: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel has no IPv6.
    #[error(
        "this host has no IPv6 (is ipv6.disable=1 on the kernel's command line?): switch it on there, or remove \
         enable_ipv6 from the networks of this host"
    )]
    NoIpv6,
    /// The kernel answered with something that makes no sense.
    #[error("cannot {operation}: unexpected answer from the kernel: {answer}")]
    Unexpected {
        /// What was asked.
        operation: String,
        /// What came back.
        answer: String,
    },
}

impl Error {
    /// The kernel's error number, where the kernel refused the request.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::System { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    pub(super) fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map_or_else(String::new, |message| format!(" ({message})"))
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => "; run weft as root or with CAP_NET_ADMIN",
        Errno::EOPNOTSUPP => "; the kernel was built without it or is older than 6.6",
        Errno::ENODEV => "; the device was removed meanwhile",
        _ => "",
    }
}

/// Success is `true`; an error that means "was so already" is `false`.
pub(super) fn tolerate(result: Result<()>, already: &[Errno]) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| already.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}

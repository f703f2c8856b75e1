//! The netlink connection to one network namespace.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd},
    sync::Arc,
};

use futures_util::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::{Socket, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::{
    error::{Error, Result},
    namespace::Namespace,
};

/// A list that still changes after so many reads is given up; each read takes milliseconds.
const DUMP_ATTEMPTS: usize = 20;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Size of the request's header, repeated in every acknowledgement (`NETLINK_CAP_ACK`).
const NETLINK_HEADER_LENGTH: usize = 16;

/// A connection to the routing netlink of one namespace. Clones share it; it closes with the last one.
///
/// A connection holds about 72 KiB of buffers: open one per container for the operation, do not keep thousands.
#[derive(Clone)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    namespace: Arc<str>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Netlink").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

fn open_socket() -> std::io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    // The kernel's own words in errors, without the request repeated before them.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    // The kernel filters dumps by device and table instead of ignoring what it was asked.
    socket.set_netlink_get_strict_chk(true)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

impl Netlink {
    /// Connects to the namespace of the calling thread. Must be called within a tokio runtime.
    pub fn new() -> Result<Self> {
        let socket = open_socket().map_err(|error| Error::system("open a netlink socket", error))?;
        Ok(Self::from_socket(socket, "the own network namespace"))
    }

    /// Connects to another namespace.
    pub async fn in_namespace(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.run("open a netlink socket", open_socket).await?;
        Ok(Self::from_socket(socket, &namespace.to_string()))
    }

    fn from_socket(socket: Socket, namespace: &str) -> Self {
        // SAFETY: `into_raw_fd` gave up ownership of an open netlink socket, and `TokioSocket` takes it over.
        let socket = unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) };
        let (mut connection, handle, _) = rtnetlink::from_socket(socket);
        // The end of a dump carries its error code and whether it was interrupted.
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Self { handle, namespace: namespace.into() }
    }

    /// The namespace, as errors name it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The number by which this namespace knows another one (`IFLA_LINK_NETNSID`, `ip netns list-id`), `None` if it
    /// knows it by none.
    pub async fn namespace_id(&self, other: &Namespace) -> Result<Option<i32>> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(other.as_fd().as_raw_fd() as u32));
        let operation = format!("look up the id of {other}");
        let answer = self.request(&operation, RouteNetlinkMessage::GetNsId(message), NLM_F_REQUEST).await?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNsId(message) => Some(message),
                _ => None,
            })
            .flat_map(|message| message.attributes)
            .find_map(|attribute| match attribute {
                NsidAttribute::Id(id) if id >= 0 => Some(id),
                _ => None,
            }))
    }

    /// Asks for a change and waits for the kernel's word on it.
    pub(super) async fn change(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.request(operation, message, flags | NLM_F_REQUEST | NLM_F_ACK).await.map(drop)
    }

    /// Asks for one object.
    pub(super) async fn get(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>> {
        Ok(self.request(operation, message, NLM_F_REQUEST).await?.into_iter().next())
    }

    /// Asks for a whole list, again if it changed meanwhile.
    pub(super) async fn dump(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.request(operation, message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await {
                Err(Error::Interrupted { .. }) => {}
                result => return result,
            }
        }
        Err(self.interrupted(operation))
    }

    async fn request(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut response = self.handle.clone().request(request).map_err(|_| self.closed(operation))?;
        let mut answer = Vec::new();
        let mut interrupted = false;
        while let Some(message) = response.next().await {
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answer.push(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(self.refused(operation, &error));
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(self.kernel(operation, Errno::from_raw(-done.code), None));
                }
                // The receive buffer ran over while the list was read, so parts of it are lost.
                NetlinkPayload::Overrun(_) => interrupted = true,
                _ => {}
            }
        }
        if interrupted { Err(self.interrupted(operation)) } else { Ok(answer) }
    }

    fn refused(&self, operation: &str, error: &ErrorMessage) -> Error {
        let text = error.header.get(NETLINK_HEADER_LENGTH..).and_then(|attributes| {
            NlasIterator::new(attributes)
                .filter_map(|attribute| attribute.ok())
                .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
                .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
        });
        self.kernel(operation, Errno::from_raw(error.raw_code().wrapping_neg()), text)
    }

    fn kernel(&self, operation: &str, errno: Errno, message: Option<String>) -> Error {
        Error::Kernel { operation: operation.into(), namespace: self.namespace.to_string(), errno, message }
    }

    fn interrupted(&self, operation: &str) -> Error {
        Error::Interrupted { operation: operation.into(), namespace: self.namespace.to_string() }
    }

    fn closed(&self, operation: &str) -> Error {
        Error::Unexpected {
            operation: format!("{operation} in {}", self.namespace),
            answer: "the netlink connection is closed".into(),
        }
    }
}

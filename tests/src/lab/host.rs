//! Hosts, their containers, and the kernel's own bridge for comparison.

use std::{
    collections::HashMap,
    net::IpAddr,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    Inner,
    daemon::{Daemon, READY_LIMIT},
    namespace::Namespace,
    segment::{Segment, add_address},
};

/// A machine: its own network namespace, uplinks `eth0`, `eth1`, …, containers.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: Namespace,
    uplinks: Vec<IpAddr>,
    containers: Arc<Mutex<Vec<Container>>>,
}

/// A container: an empty namespace that weft, or a test, plugs interfaces into.
#[derive(Clone, Debug)]
pub struct Container {
    namespace: Namespace,
}

/// A kernel bridge of a host, as Docker would make it: what weft is compared with.
#[derive(Clone, Debug)]
pub struct Bridge {
    host: Namespace,
    device: String,
    gateway: String,
}

impl Deref for Host {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Deref for Container {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Host {
    pub(super) fn create(lab: &Arc<Inner>, name: &str) -> Result<Self> {
        let namespace = Namespace::create(lab, name, name)?;
        // A new namespace inherits the machine's setting (net.core.devconf_inherit_init_net); a test must not
        // depend on it. A host of containers forwards.
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        Ok(Self { namespace, uplinks: Vec::new(), containers: Arc::default() })
    }

    /// Plugs the next uplink (`eth0` first) into a segment, with an address such as `192.0.2.1/24`.
    pub fn on(mut self, segment: &Segment, address: &str) -> Result<Self> {
        let device = format!("eth{}", self.uplinks.len());
        self.uplinks.push(segment.plug(&self.namespace, &device, address)?);
        Ok(self)
    }

    /// Sets the default route.
    pub fn default_via(self, gateway: &str) -> Result<Self> {
        self.namespace.ip(&format!("route add default via {gateway}"))?;
        Ok(self)
    }

    /// The address of its first uplink.
    pub fn address(&self) -> Result<IpAddr> {
        self.uplinks.first().copied().with_context(|| format!("host {} is on no segment", self.name()))
    }

    /// Makes a container of this host: an empty namespace with its loopback device up.
    pub fn container(&self, name: &str) -> Result<Container> {
        let path = format!("{}-{name}", self.namespace.name());
        let namespace = Namespace::create(&self.namespace.lab, name, &path)?;
        let container = Container { namespace };
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).push(container.clone());
        Ok(container)
    }

    /// Makes many containers at once.
    pub fn containers(&self, names: &[String]) -> Result<Vec<Container>> {
        let host = self.namespace.name();
        let named = names.iter().map(|name| (name.clone(), format!("{host}-{name}"))).collect::<Vec<_>>();
        let namespaces = Namespace::create_all(&self.namespace.lab, &named)?;
        let made = namespaces.into_iter().map(|namespace| Container { namespace }).collect::<Vec<_>>();
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).extend(made.iter().cloned());
        Ok(made)
    }

    /// Starts `weft daemon` in this host with this file and waits until it is ready. In the text, `netns: NAME`
    /// means the container NAME of this host.
    pub fn weft(&self, text: &str) -> Result<Daemon> {
        self.weft_within(text, READY_LIMIT)
    }

    /// As `weft`, for a file that takes longer than usual.
    pub fn weft_within(&self, text: &str, limit: Duration) -> Result<Daemon> {
        Daemon::start(self, text, limit)
    }

    /// The text with the names of this host's containers replaced by those of their namespaces.
    pub fn localized(&self, text: &str) -> String {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let namespaces = containers.iter().map(|it| (it.name(), it.netns())).collect::<HashMap<_, _>>();
        let mut parts = text.split("netns:");
        let mut localized = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let start = part.find(|character: char| !" \"'".contains(character)).unwrap_or(part.len());
            let (before, rest) = part.split_at(start);
            let is_name = |character: char| character.is_alphanumeric() || "_.-".contains(character);
            let end = rest.find(|character| !is_name(character)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let name = namespaces.get(name).copied().unwrap_or(name);
            localized.extend(["netns:", before, name, after]);
        }
        localized
    }

    /// Makes a kernel bridge with the gateway's address on it.
    pub fn kernel_bridge(&self, device: &str, gateway: &str) -> Result<Bridge> {
        self.namespace.ip(&format!("link add {device} type bridge stp_state 0"))?;
        add_address(&self.namespace, device, gateway)?;
        let host = self.namespace.clone();
        Ok(Bridge { host, device: device.to_owned(), gateway: gateway.to_owned() })
    }
}

impl Container {
    /// Plugs `eth0` into a kernel bridge, with the bridge's address as default gateway.
    pub fn on_bridge(self, bridge: &Bridge, address: &str) -> Result<Self> {
        let port = format!("veth{}", self.namespace.lab.next_number());
        let netns = self.namespace.netns();
        bridge.host.ip(&format!("link add {port} type veth peer name eth0 netns {netns}"))?;
        bridge.host.ip(&format!("link set {port} master {} up", bridge.device))?;
        add_address(&self.namespace, "eth0", address)?;
        let gateway = bridge.gateway.split('/').next().unwrap_or_default();
        self.namespace.ip(&format!("route add default via {gateway}"))?;
        Ok(self)
    }
}

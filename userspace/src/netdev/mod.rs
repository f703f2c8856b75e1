//! Netlink: devices, addresses, routes and namespaces of this host.

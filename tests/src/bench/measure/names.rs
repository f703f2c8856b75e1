//! The figures: what each is called, its unit, and which way is better.

use serde::{Deserialize, Serialize};

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Median of TCP round trips.
    TcpRoundTripP50,
    /// 99 of 100 TCP round trips took no longer.
    TcpRoundTripP99,
    /// Payload of one TCP stream to the server.
    TcpThroughput,
    /// CPU time of that.
    TcpThroughputCpu,
    /// Payload of one TCP stream from the server.
    TcpThroughputBack,
    /// CPU time of that.
    TcpThroughputBackCpu,
    /// Payload of eight TCP streams to the server.
    TcpThroughputEight,
    /// CPU time of that.
    TcpThroughputEightCpu,
    /// Payload of eight TCP streams from the server.
    TcpThroughputEightBack,
    /// CPU time of that.
    TcpThroughputEightBackCpu,
    /// Median of UDP round trips.
    UdpRoundTripP50,
    /// 99 of 100 UDP round trips took no longer.
    UdpRoundTripP99,
    /// Small datagrams that arrive in a second.
    UdpPacketRate,
    /// CPU time of each.
    UdpPacketCpu,
    /// Payload of full datagrams that arrives.
    UdpThroughput,
    /// CPU time of that.
    UdpThroughputCpu,
    /// TCP connections in a second, each with a request and a reply.
    ConnectionRate,
    /// CPU time of each.
    ConnectionCpu,
    /// GET requests that redis answers in a second.
    RedisRate,
    /// CPU time of each.
    RedisCpu,
    /// HTTP requests that nginx answers in a second.
    HttpRate,
    /// CPU time of each.
    HttpCpu,
}

impl Measure {
    /// In the order of the table.
    pub const ALL: [Self; 22] = [
        Self::TcpRoundTripP50,
        Self::TcpRoundTripP99,
        Self::UdpRoundTripP50,
        Self::UdpRoundTripP99,
        Self::TcpThroughput,
        Self::TcpThroughputCpu,
        Self::TcpThroughputBack,
        Self::TcpThroughputBackCpu,
        Self::TcpThroughputEight,
        Self::TcpThroughputEightCpu,
        Self::TcpThroughputEightBack,
        Self::TcpThroughputEightBackCpu,
        Self::UdpPacketRate,
        Self::UdpPacketCpu,
        Self::UdpThroughput,
        Self::UdpThroughputCpu,
        Self::ConnectionRate,
        Self::ConnectionCpu,
        Self::RedisRate,
        Self::RedisCpu,
        Self::HttpRate,
        Self::HttpCpu,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpRoundTripP50 => "TCP round trip p50",
            Self::TcpRoundTripP99 => "TCP round trip p99",
            Self::TcpThroughput => "TCP throughput",
            Self::TcpThroughputCpu => "TCP throughput, CPU",
            Self::TcpThroughputBack => "TCP throughput back",
            Self::TcpThroughputBackCpu => "TCP throughput back, CPU",
            Self::TcpThroughputEight => "TCP throughput of 8",
            Self::TcpThroughputEightCpu => "TCP throughput of 8, CPU",
            Self::TcpThroughputEightBack => "TCP throughput of 8 back",
            Self::TcpThroughputEightBackCpu => "TCP throughput of 8 back, CPU",
            Self::UdpRoundTripP50 => "UDP round trip p50",
            Self::UdpRoundTripP99 => "UDP round trip p99",
            Self::UdpPacketRate => "UDP packets of 64 bytes",
            Self::UdpPacketCpu => "UDP packets of 64 bytes, CPU",
            Self::UdpThroughput => "UDP throughput (GSO)",
            Self::UdpThroughputCpu => "UDP throughput (GSO), CPU",
            Self::ConnectionRate => "connections",
            Self::ConnectionCpu => "connections, CPU",
            Self::RedisRate => "redis GET",
            Self::RedisCpu => "redis GET, CPU",
            Self::HttpRate => "nginx GET",
            Self::HttpCpu => "nginx GET, CPU",
        }
    }

    /// Of its values.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::TcpRoundTripP50 | Self::TcpRoundTripP99 | Self::UdpRoundTripP50 | Self::UdpRoundTripP99 => {
                "µs"
            }
            Self::TcpThroughput
            | Self::TcpThroughputBack
            | Self::TcpThroughputEight
            | Self::TcpThroughputEightBack
            | Self::UdpThroughput => "Gbit/s",
            Self::TcpThroughputCpu
            | Self::TcpThroughputBackCpu
            | Self::TcpThroughputEightCpu
            | Self::TcpThroughputEightBackCpu
            | Self::UdpThroughputCpu => "µs/MB",
            Self::UdpPacketRate | Self::ConnectionRate | Self::RedisRate | Self::HttpRate => "1/s",
            Self::UdpPacketCpu | Self::ConnectionCpu | Self::RedisCpu | Self::HttpCpu => "µs each",
        }
    }

    /// Whether more is better; of times less is.
    pub fn more_is_better(self) -> bool {
        matches!(self.unit(), "Gbit/s" | "1/s")
    }

    /// Whether it tells of all that the machine does meanwhile: the tail of a distribution, and CPU time.
    pub fn is_of_machine(self) -> bool {
        matches!(self, Self::TcpRoundTripP99 | Self::UdpRoundTripP99)
            || matches!(self.unit(), "µs/MB" | "µs each")
    }
}

//! Flow state: who has been heard, and how a TCP connection ends.

use crate::{
    abi::Settings,
    packet::{protocol, tcp_flags},
};

/// Which end sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The container.
    FromInside,
    /// The other end.
    FromOutside,
}

/// The state byte of a flow record, a set of facts. Both ends of a flow write it without a lock: every fact but a
/// restart only ever gets added, so a lost update is repeated by the next packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    /// The container has sent; with TCP, has acknowledged something.
    pub const INSIDE_HEARD: u8 = 1;
    /// The same of the other end.
    pub const OUTSIDE_HEARD: u8 = 2;
    /// The container has sent FIN.
    pub const INSIDE_FIN: u8 = 4;
    /// The other end has sent FIN.
    pub const OUTSIDE_FIN: u8 = 8;
    /// Either end has sent RST.
    pub const RESET: u8 = 16;

    /// A flow that one end has just opened with such a packet.
    #[inline(always)]
    pub const fn opened_by(direction: Direction, protocol: u8, flags: u8) -> Self {
        Self(0).after(direction, protocol, flags)
    }

    /// Whether both ends have been heard: only then may the record outlive pressure on the table. A TCP connection that
    /// its opener has not acknowledged may be one of a flood with invented sources (RFC 4987 section 2).
    #[inline(always)]
    pub const fn confirmed(self) -> bool {
        self.0 & (Self::INSIDE_HEARD | Self::OUTSIDE_HEARD) == Self::INSIDE_HEARD | Self::OUTSIDE_HEARD
    }

    /// Whether a TCP connection has ended: RST, or FIN from both ends (RFC 7857 section 2).
    #[inline(always)]
    pub const fn closed(self) -> bool {
        self.0 & Self::RESET != 0
            || self.0 & (Self::INSIDE_FIN | Self::OUTSIDE_FIN) == Self::INSIDE_FIN | Self::OUTSIDE_FIN
    }

    /// The state after a packet.
    #[inline(always)]
    pub const fn after(self, direction: Direction, protocol: u8, flags: u8) -> Self {
        let heard = match direction {
            Direction::FromInside => Self::INSIDE_HEARD,
            Direction::FromOutside => Self::OUTSIDE_HEARD,
        };
        if protocol != protocol::TCP {
            return Self(self.0 | heard);
        }
        // A SYN on an ended connection begins a new one with the same addresses and ports (RFC 9293 section 3.6.1).
        if flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN && self.closed() {
            return Self(0);
        }
        let mut facts = self.0;
        if flags & tcp_flags::ACK != 0 && flags & tcp_flags::RST == 0 {
            facts |= heard;
        }
        // Anybody who knows the ports can send a RST. What goes on after it was not reset (RFC 7857 section 2.2, RFC 6146
        // section 3.5.2.2); an end that really is reset answers with a RST of its own.
        if flags & tcp_flags::RST != 0 {
            facts |= Self::RESET;
        } else {
            facts &= !Self::RESET;
        }
        if flags & tcp_flags::FIN != 0 {
            facts |= match direction {
                Direction::FromInside => Self::INSIDE_FIN,
                Direction::FromOutside => Self::OUTSIDE_FIN,
            };
        }
        Self(facts)
    }

    /// How long the flow may be silent, in nanoseconds.
    #[inline(always)]
    pub const fn timeout_ns(self, protocol: u8, settings: &Settings) -> u64 {
        match protocol {
            protocol::TCP if self.closed() => settings.tcp_closing_timeout_ns,
            protocol::TCP if self.confirmed() => settings.tcp_established_timeout_ns,
            protocol::TCP => settings.tcp_opening_timeout_ns,
            protocol::ICMP | protocol::ICMPV6 => settings.icmp_query_timeout_ns,
            _ => settings.udp_timeout_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{FromInside, FromOutside};
    use tcp_flags::{ACK, FIN, RST, SYN};

    const SETTINGS: Settings = Settings {
        netns_cookie: 0,
        udp_timeout_ns: 300,
        tcp_established_timeout_ns: 7440,
        tcp_opening_timeout_ns: 230,
        tcp_closing_timeout_ns: 240,
        icmp_query_timeout_ns: 60,
        port_hold_ns: 120,
        first_port: 1,
        last_port: 2,
        waiting_room: 0,
    };

    fn walk(steps: &[(Direction, u8)]) -> State {
        steps
            .iter()
            .fold(State(0), |state, (direction, flags)| state.after(*direction, protocol::TCP, *flags))
    }

    #[test]
    fn handshake_establishes() {
        let syn = walk(&[(FromInside, SYN)]);
        assert!(!syn.confirmed());
        assert_eq!(syn.timeout_ns(protocol::TCP, &SETTINGS), 230);
        let established = walk(&[(FromInside, SYN), (FromOutside, SYN | ACK), (FromInside, ACK)]);
        assert!(established.confirmed() && !established.closed());
        assert_eq!(established.timeout_ns(protocol::TCP, &SETTINGS), 7440);
    }

    #[test]
    fn so_does_simultaneous_open() {
        let syns = walk(&[(FromInside, SYN), (FromOutside, SYN)]);
        assert!(!syns.confirmed());
        let both =
            syns.after(FromInside, protocol::TCP, SYN | ACK).after(FromOutside, protocol::TCP, SYN | ACK);
        assert!(both.confirmed() && !both.closed());
    }

    #[test]
    fn who_opens_must_acknowledge() {
        let flood = walk(&[(FromOutside, SYN), (FromInside, SYN | ACK), (FromInside, SYN | ACK)]);
        assert!(!flood.confirmed());
        assert_eq!(flood.timeout_ns(protocol::TCP, &SETTINGS), 230);
        assert!(flood.after(FromOutside, protocol::TCP, ACK).confirmed());
        let refused =
            walk(&[(FromOutside, SYN), (FromInside, RST | ACK), (FromOutside, SYN), (FromInside, RST | ACK)]);
        assert!(!refused.confirmed() && refused.closed());
    }

    #[test]
    fn what_goes_on_after_a_reset_was_not_reset() {
        let open = walk(&[(FromInside, SYN), (FromOutside, SYN | ACK), (FromInside, ACK)]);
        let reset = open.after(FromOutside, protocol::TCP, RST);
        assert_eq!(reset.timeout_ns(protocol::TCP, &SETTINGS), 240);
        assert_eq!(reset.after(FromOutside, protocol::TCP, ACK), open);
    }

    #[test]
    fn half_close_stays_established_until_both_ends_close() {
        let open = [(FromInside, SYN), (FromOutside, SYN | ACK), (FromInside, ACK)];
        let half = walk(&open).after(FromInside, protocol::TCP, FIN | ACK);
        assert_eq!(half.timeout_ns(protocol::TCP, &SETTINGS), 7440);
        let closed = half.after(FromOutside, protocol::TCP, FIN | ACK);
        assert_eq!(closed.timeout_ns(protocol::TCP, &SETTINGS), 240);
    }

    #[test]
    fn syn_after_reset_is_a_new_connection() {
        let reset = walk(&[(FromInside, SYN), (FromOutside, RST | ACK)]);
        assert!(reset.closed());
        let again = reset.after(FromInside, protocol::TCP, SYN);
        assert!(!again.closed() && !again.confirmed());
    }

    /// Nothing of the one before is left: neither who was heard nor who has sent FIN.
    #[test]
    fn so_is_a_syn_after_both_ends_closed() {
        let closed = walk(&[(FromInside, FIN | ACK), (FromOutside, FIN | ACK)]);
        assert!(closed.closed() && closed.confirmed());
        for direction in [FromInside, FromOutside] {
            assert_eq!(closed.after(direction, protocol::TCP, SYN), State(0));
            // One that answers is late.
            assert_eq!(closed.after(direction, protocol::TCP, SYN | ACK), closed);
        }
    }

    #[test]
    fn syn_on_an_open_connection_changes_nothing() {
        let open = walk(&[(FromInside, SYN), (FromOutside, SYN | ACK), (FromInside, ACK)]);
        assert_eq!(open.after(FromInside, protocol::TCP, SYN), open);
    }

    #[test]
    fn datagrams_and_queries_have_their_own_timeouts() {
        let state = State::opened_by(FromInside, protocol::UDP, 0).after(FromOutside, protocol::UDP, 0);
        assert!(state.confirmed());
        for direction in [FromInside, FromOutside] {
            assert_eq!(state.after(direction, protocol::UDP, 0), state, "who was heard stays so");
        }
        assert_eq!(state.timeout_ns(protocol::UDP, &SETTINGS), 300);
        assert_eq!(state.timeout_ns(protocol::ICMP, &SETTINGS), 60);
    }
}

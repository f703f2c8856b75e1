//! Single values of the format: addresses, names, durations. Each reader notes its own error.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnetwork::IpNetwork;

use super::{
    error::{Position, Report, quote},
    located::Located,
    schema::{Flag, Scalar},
};
use crate::model::{Family, MacAddress};

/// `IFNAMSIZ` of the kernel, less the terminating NUL.
const LONGEST_DEVICE_NAME: usize = 15;
/// Longer flow timeouts are taken for a mistake.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// An address of one family.
pub(super) fn address(text: &Located<String>, family: Family, report: &mut Report) -> Option<IpAddr> {
    match text.value.parse::<IpAddr>() {
        Ok(address) if Family::of(address) == family && !is_mapped(address) => return Some(address),
        _ => {
            let (name, example) = match family {
                Family::V4 => ("IPv4", "10.10.0.10"),
                Family::V6 => ("IPv6", "fd00:10::10"),
            };
            report.add(
                text.at,
                format!("{} is not an {name} address; write it as in {example}", quote(&text.value)),
            );
        }
    }
    None
}

/// An IPv4 address.
pub(super) fn ipv4(text: &Located<String>, report: &mut Report) -> Option<Ipv4Addr> {
    match address(text, Family::V4, report)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// An IPv6 address.
pub(super) fn ipv6(text: &Located<String>, report: &mut Report) -> Option<Ipv6Addr> {
    match address(text, Family::V6, report)? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// An IPv4 address in the clothes of an IPv6 one (RFC 4291 section 2.5.5.2): it never is one on a wire.
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// An address of either family.
pub(super) fn ip(text: &Located<String>, report: &mut Report) -> Option<IpAddr> {
    match text.value.parse().ok().filter(|address| !is_mapped(*address)) {
        Some(address) => Some(address),
        None => {
            report.add(
                text.at,
                format!(
                    "{} is not an IP address; write it as in 192.0.2.1 or 2001:db8::1",
                    quote(&text.value)
                ),
            );
            None
        }
    }
}

/// An address that a host can have on every link: neither multicast, loopback, unspecified, broadcast nor link-local.
pub(super) fn unicast(text: &Located<String>, report: &mut Report) -> Option<IpAddr> {
    let address = ip(text, report)?;
    let good = match address {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    if !good || address.is_multicast() || address.is_loopback() || address.is_unspecified() {
        report.add(text.at, format!("{address} cannot be the address of a host on a network"));
        return None;
    }
    Some(address)
}

/// A range in CIDR notation, host bits zero.
pub(super) fn range(text: &Located<String>, report: &mut Report) -> Option<IpNetwork> {
    let reason = match text.value.split_once('/') {
        Some((address, length)) if is_digits(length) => match address.parse::<IpAddr>() {
            Ok(address) if !is_mapped(address) => {
                let range = length.parse().ok().and_then(|length| IpNetwork::new(address, length).ok());
                match range {
                    Some(range) if range.network() == address => return Some(range),
                    Some(range) => format!(
                        "{} has bits set beyond its prefix: the range is written {}/{}",
                        quote(&text.value),
                        range.network(),
                        range.prefix()
                    ),
                    None if address.is_ipv4() => {
                        format!("{}: an IPv4 prefix has at most 32 bits", quote(&text.value))
                    }
                    None => format!("{}: an IPv6 prefix has at most 128 bits", quote(&text.value)),
                }
            }
            _ => not_a_range(&text.value),
        },
        _ => not_a_range(&text.value),
    };
    report.add(text.at, reason);
    None
}

fn not_a_range(text: &str) -> String {
    format!("{} is not an address range; write it as in 10.10.0.0/24 or fd00:10::/64", quote(text))
}

/// The MAC address of an interface.
pub(super) fn mac(text: &Located<String>, report: &mut Report) -> Option<MacAddress> {
    match text.value.parse::<MacAddress>() {
        // The lowest bit of the first byte marks group addresses (IEEE 802).
        Ok(MacAddress(bytes)) if bytes[0] & 1 != 0 => report.add(
            text.at,
            format!(
                "{} is a multicast address: the first byte of an interface's MAC is even",
                quote(&text.value)
            ),
        ),
        Ok(MacAddress([0, 0, 0, 0, 0, 0])) => {
            report.add(text.at, "an interface cannot have the MAC address zero")
        }
        Ok(mac) => return Some(mac),
        Err(error) => report.add(text.at, format!("{}: {error}", quote(&text.value))),
    }
    None
}

/// A whole number within bounds, given as number or text.
pub(super) fn number(
    value: &Located<Scalar>,
    what: &str,
    least: u32,
    most: u32,
    report: &mut Report,
) -> Option<u32> {
    let text = value.value.text();
    let number = if is_digits(&text) { text.parse().ok() } else { None };
    let number = number.filter(|number| (least..=most).contains(number));
    if number.is_none() {
        report.add(value.at, format!("{}: {what} is a number from {least} to {most}", quote(&text)));
    }
    number
}

/// The same for a field that is a number in YAML.
pub(super) fn integer(
    value: &Located<i64>,
    what: &str,
    least: u32,
    most: u32,
    report: &mut Report,
) -> Option<u32> {
    number(&Located { value: Scalar::Integer(value.value), at: value.at }, what, least, most, report)
}

/// `true` or `false`.
pub(super) fn flag(value: &Located<Flag>, report: &mut Report) -> Option<bool> {
    let text = match &value.value {
        Flag::Boolean(flag) => return Some(*flag),
        Flag::Text(text) => text,
    };
    match text.as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => {
            report.add(value.at, format!("{} is neither true nor false", quote(text)));
            None
        }
    }
}

/// A flow timeout: seconds, or a duration as Compose writes it.
pub(super) fn timeout(value: &Located<Scalar>, report: &mut Report) -> Option<Duration> {
    let text = value.value.text();
    let duration =
        if is_digits(&text) { text.parse().ok().map(Duration::from_secs) } else { duration(&text) };
    match duration {
        Some(duration) if (Duration::from_secs(1)..=LONGEST_TIMEOUT).contains(&duration) => Some(duration),
        Some(_) => {
            report.add(value.at, format!("{}: a timeout is between one second and 30 days", quote(&text)));
            None
        }
        None => {
            report.add(
                value.at,
                format!("{} is no duration; write seconds, or as in 300s, 5m or 1h30m", quote(&text)),
            );
            None
        }
    }
}

/// `1h30m`: units in descending order, each at most once.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0_u64;
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((count, after)) = rest.split_once(unit)
            && is_digits(count)
        {
            seconds = seconds.checked_add(count.parse::<u64>().ok()?.checked_mul(length)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// Names of networks and services: Compose's pattern, less the two that mean directories.
pub(super) fn name(text: &str, at: Position, what: &str, report: &mut Report) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let good =
        !text.is_empty() && text.len() <= 255 && text.chars().all(allowed) && text != "." && text != "..";
    if !good {
        report.add(
            at,
            format!("{} is not a {what}: use letters, digits, '.', '_' and '-', at most 255", quote(text)),
        );
    }
    good
}

/// Names of containers and networks that Docker itself knows.
pub(super) fn docker_name(text: &Located<String>, what: &str, report: &mut Report) -> bool {
    if !text.value.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        report.add(
            text.at,
            format!("{} is not a {what}: it begins with a letter or a digit", quote(&text.value)),
        );
        return false;
    }
    name(&text.value, text.at, what, report)
}

/// A host name or one of its parts (RFC 1123 section 2.1); the underscore is common in Compose files.
pub(super) fn host_name(text: &Located<String>, what: &str, report: &mut Report) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|character| character.is_ascii_alphanumeric() || "-_".contains(character))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let good = text.value.len() <= 253 && text.value.split('.').all(label);
    if !good {
        report.add(
            text.at,
            format!(
                "{} is not a {what}: use letters, digits and '-', in parts of 1 to 63 with '.' between",
                quote(&text.value)
            ),
        );
    }
    good
}

/// A name that the kernel takes for a device (`dev_valid_name` in net/core/dev.c; '%' asks it for a number).
pub(super) fn device_name(text: &Located<String>, report: &mut Report) -> bool {
    let name = text.value.as_str();
    let reason = if name.len() > LONGEST_DEVICE_NAME {
        format!("is longer than {LONGEST_DEVICE_NAME} bytes, the most for a device name")
    } else if name.is_empty()
        || name == "."
        || name == ".."
        || name.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control())
    {
        "is not a device name: it is not empty and has no '/', ':', '%' or white space".to_owned()
    } else {
        return true;
    };
    report.add(text.at, format!("{} {reason}", quote(name)));
    false
}

/// Digits and nothing else; Rust's own number parsers also take a sign.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

//! Fast decimal formatting for values that are written on every request. [`std::fmt`] took 4 % of
//! the CPU time of a small request.

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) fn push(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends milliseconds with three decimals, rounded down.
pub(crate) fn push_milliseconds(bytes: &mut Vec<u8>, duration: Duration) {
    // A u64 of microseconds lasts for half a million years.
    let micros = duration.as_micros() as u64;
    push(bytes, micros / 1000);
    let decimals = micros % 1000;
    bytes.push(b'.');
    for place in [100, 10, 1] {
        bytes.push(b'0' + (decimals / place % 10) as u8);
    }
}

/// Appends an address, with its port unless that is 0.
pub(crate) fn push_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    let port = address.port();
    match address {
        SocketAddr::V4(address) => {
            let [first, others @ ..] = address.ip().octets();
            push(bytes, first.into());
            for octet in others {
                bytes.push(b'.');
                push(bytes, octet.into());
            }
            if port != 0 {
                bytes.push(b':');
                push(bytes, port.into());
            }
        }
        SocketAddr::V6(address) if port == 0 => bytes.extend_from_slice(address.ip().to_string().as_bytes()),
        SocketAddr::V6(address) => bytes.extend_from_slice(address.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = Vec::new();
        push(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        for (nanos, expected) in [
            (0, "0.000"),
            (999, "0.000"),
            (7_000, "0.007"),
            (90_500, "0.090"),
            (1_250_000, "1.250"),
            (2_000_000_000, "2000.000"),
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(text(|bytes| push_milliseconds(bytes, duration)), expected);
        }
    }

    #[test]
    fn addresses_are_as_the_standard_library_writes_them() {
        for address in ["0.0.0.0:1", "192.0.2.255:65535", "[2001:db8::1]:80"] {
            let parsed: SocketAddr = address.parse().unwrap();
            assert_eq!(text(|bytes| push_address(bytes, parsed)), address);
            let without = SocketAddr::new(parsed.ip(), 0);
            assert_eq!(
                text(|bytes| push_address(bytes, without)),
                parsed.ip().to_string()
            );
        }
    }
}

//! The addresses that the server listens on. They are bound before the models load and opened
//! afterwards.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Config, ConfigError};

/// Connections that may wait to be accepted; the system has a limit of its own
/// (`net.core.somaxconn`). A load balancer opens more than the 128 of the standard library at once
/// when another server stops, and a connection that does not fit is retried after a second.
const BACKLOG: u32 = 4096;

/// A bound address. No other program can listen on it, and connections are refused until it is
/// opened.
#[derive(Debug)]
pub struct Taken {
    key: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl Taken {
    /// Binds the address that the configuration has for `key`.
    pub fn new(config: &Config, key: &'static str, address: SocketAddr) -> Result<Self, ConfigError> {
        let bound = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .and_then(|socket| {
            // Otherwise connections of a server that has just ended block its address for a minute.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => Ok(Self { key, address, socket }),
            Err(error) => Err(refused(config, key, address, &error)),
        }
    }

    /// Starts to listen. Returns the address too, because the system chooses the port if it is 0.
    pub fn open(self, config: &Config) -> Result<(TcpListener, SocketAddr), ConfigError> {
        let Self { key, address, socket } = self;
        let opened = socket.listen(BACKLOG).and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        opened.map_err(|error| refused(config, key, address, &error))
    }
}

fn refused(config: &Config, key: &str, address: SocketAddr, error: &io::Error) -> ConfigError {
    let advice = if error.kind() == io::ErrorKind::AddrInUse {
        let (flag, variable) = (key.replace('_', "-"), key.to_uppercase());
        format!(
            "; another program uses this address: choose another one with --{flag}, CLASSIFYD_{variable} or {key} in the file"
        )
    } else {
        String::new()
    };
    config.mistake(key, &format!("cannot listen on {address}: {error}{advice}"))
}

/// The address at which programs on this machine reach the server: the loopback address if it
/// listens on all addresses.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_on_all_addresses_is_reached_on_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:81", "[::1]:81"),
            ("10.1.2.3:8080", "10.1.2.3:8080"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        }
    }
}

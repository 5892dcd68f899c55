//! The addresses that the server listens on: taken before the models load, opened after that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Config, ConfigError};

/// Connections that may wait to be accepted; the system has a limit of its own (`net.core.somaxconn`). The 128 of the standard
/// library are fewer than a load balancer opens at once when another server has left, and whoever finds no place waits a second.
const BACKLOG: u32 = 4096;

/// An address that nobody else can listen on. Connections are refused until it is opened.
#[derive(Debug)]
pub struct Taken {
    key: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl Taken {
    /// Takes the address that `key` of the configuration says.
    pub fn new(config: &Config, key: &'static str, address: SocketAddr) -> Result<Self, ConfigError> {
        let bound = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .and_then(|socket| {
            // Else the connections of a server that has just ended keep its address for a minute.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => Ok(Self { key, address, socket }),
            Err(error) => Err(refused(config, key, address, &error)),
        }
    }

    /// Begins to listen. Also gives the address, with the port that the system has chosen where the configuration says 0.
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
            "; another program listens there: choose another address with --{flag}, CLASSIFYD_{variable} or {key} in the file"
        )
    } else {
        String::new()
    };
    config.mistake(key, &format!("cannot listen on {address}: {error}{advice}"))
}

/// Where a server is asked from beside it: one that listens on every address, on the loopback one.
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
    fn an_address_that_stands_for_all_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:81", "[::1]:81"),
            ("10.1.2.3:8080", "10.1.2.3:8080"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}

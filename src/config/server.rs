//! The HTTP side: where it listens and how long it lets a caller wait.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Settings of the HTTP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port. Port 0 takes a free one, which is logged. Default: this machine only, because there
    /// are no keys yet.
    pub bind: SocketAddr,
    /// Longest `Prefer: wait=N` that is honoured, in seconds.
    pub wait_max_s: u64,
    /// Silence after which an event stream sends a comment, in milliseconds, so that proxies keep it open.
    pub ping_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), wait_max_s: 60, ping_ms: 15_000 }
    }
}

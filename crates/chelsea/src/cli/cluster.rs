//! Flags of `chelsea serve` that make it one of many.

use super::serve::parse_bytes;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// How the server works together with others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many machines")]
pub struct ClusterArgs {
    /// Port for routers that speak vLLM's gRPC interface, such as NVIDIA Dynamo's sidecar; 0 takes a free one. Needs a program
    /// that was built with `--features grpc`.
    #[arg(long, value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// Address of that port. It knows no keys: whoever reaches it may ask.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), hide_short_help = true)]
    pub grpc_host: IpAddr,
    /// Port at which such routers hear which prefixes lie in checkpoints; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_short_help = true)]
    pub kv_events_port: u16,
    /// Folder or file from which such routers read the model's tokenizer and chat template [default: the
    /// model's own folder, or one that is made in the cache beside the models].
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub tokenizer_from: Option<PathBuf>,
    /// File with the token by which servers know each other that hand caches over (`CHELSEA_TRANSFER_TOKEN` may hold it,
    /// too).
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub transfer_token_file: Option<PathBuf>,
    /// Server whose caches may be gone on from (may be given several times). No other one is ever asked.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_peer, hide_short_help = true)]
    pub transfer_peer: Vec<String>,
    /// Where peers reach this server [default: http:// and the address it listens on].
    #[arg(long, value_name = "URL", value_parser = parse_url, hide_short_help = true)]
    pub transfer_url: Option<String>,
    /// How long a cache waits for a peer to fetch it, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400), hide_short_help = true)]
    pub transfer_keep: u64,
    /// Most bytes of caches that wait.
    #[arg(long, value_name = "BYTES", default_value = "4GiB", value_parser = parse_bytes, hide_short_help = true)]
    pub transfer_bytes: usize,
}

fn parse_peer(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_[]:".contains(c));
    if is_name && port.parse::<u16>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("write a host and a port, such as reader-0:8080".into())
    }
}

fn parse_url(text: &str) -> Result<String, String> {
    let wrong = || "write http:// with a host and a port, such as http://reader-0:8080".to_owned();
    let authority = text.trim_end_matches('/').strip_prefix("http://").ok_or_else(wrong)?;
    parse_peer(authority).map(|authority| format!("http://{authority}")).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_hosts_with_ports_and_nothing_else() {
        for good in ["reader-0:8080", "10.0.0.1:80", "[::1]:9", "a.b.c:65535"] {
            assert_eq!(parse_peer(good).as_deref(), Ok(good));
            assert_eq!(parse_url(&format!("http://{good}/")), Ok(format!("http://{good}")));
        }
        for bad in ["", "reader", ":80", "http://reader:80", "user@reader:80", "reader:80/x", "reader:99999"] {
            assert!(parse_peer(bad).is_err(), "{bad}");
        }
        for bad in ["https://reader:80", "reader:80", "http://reader", "http://reader:80/x"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}

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
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), requires = "grpc_port", hide_short_help = true)]
    pub grpc_host: IpAddr,
    /// Port at which such routers hear which prefixes lie in checkpoints; 0 takes a free one, and `off` tells nobody. Whoever
    /// reaches it hears the tokens of all prompts that came by gRPC without a salt of their own.
    #[arg(long, value_name = "PORT", default_value = "0", value_parser = parse_events, requires = "grpc_port", hide_short_help = true)]
    pub kv_events_port: Events,
    /// Folder or file from which such routers read the model's tokenizer and chat template [default: the
    /// model's own folder, or one that is made in the cache beside the models].
    #[arg(long, value_name = "PATH", requires = "grpc_port", hide_short_help = true)]
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
    /// How long a cache waits for a peer to fetch it, in seconds
    /// [default: 120].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), hide_short_help = true)]
    pub transfer_keep: Option<u64>,
    /// Most bytes of caches that wait [default: 4GiB].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    pub transfer_bytes: Option<usize>,
}

/// Where it is told which prefixes lie in checkpoints: at this port, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events(pub Option<u16>);

fn parse_events(text: &str) -> Result<Events, String> {
    match text {
        "off" => Ok(Events(None)),
        port => port.parse().map(|port| Events(Some(port))).map_err(|_| "write a port, or `off`".into()),
    }
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
    fn flags_of_routers_are_refused_without_a_port_for_them() {
        use clap::Parser as _;
        let parse = |words: &[&str]| {
            crate::cli::Cli::try_parse_from(["chelsea", "serve", "--model=m"].iter().chain(words)).map(drop)
        };
        for flag in ["--grpc-host=127.0.0.1", "--kv-events-port=5557", "--tokenizer-from=/x"] {
            let told = parse(&[flag]).unwrap_err().to_string();
            assert!(told.contains("--grpc-port"), "{flag}: {told}");
            assert!(parse(&[flag, "--grpc-port=50051"]).is_ok(), "{flag}");
        }
        assert!(parse(&[]).is_ok() && parse(&["--grpc-port=1", "--kv-events-port=off"]).is_ok());
        assert_eq!(parse_events("5557"), Ok(Events(Some(5557))));
        assert!(parse_events("on").is_err());
    }

    /// The words of a list in a manifest, of the container that is named before it.
    fn words(manifest: &str, container: &str, list: &str) -> Vec<String> {
        let from = manifest.find(&format!("- name: {container}\n          image:")).unwrap();
        let lines = manifest[from..].lines().skip(1).take_while(|line| line.starts_with("          "));
        let mut lines = lines.skip_while(|line| !line.trim_start().starts_with(&format!("{list}:")));
        let first = lines.next().unwrap().trim().strip_prefix(&format!("{list}:")).unwrap().trim().to_owned();
        if let Some(inline) = first.strip_prefix('[') {
            return inline.trim_end_matches(']').split(',').map(|word| word.trim().to_owned()).collect();
        }
        lines.map_while(|line| line.trim().strip_prefix("- ")).map(str::to_owned).collect()
    }

    #[test]
    fn what_the_manifests_start_is_understood() {
        use clap::Parser as _;
        let parse = |words: &[String]| crate::cli::Cli::try_parse_from(words).map(drop);
        let workers = include_str!("../../../../deploy/kubernetes/workers.yaml");
        // Their own command stands in place of the image's, which the manifest would otherwise only add to.
        let line = [words(workers, "chelsea", "command"), words(workers, "chelsea", "args")].concat();
        assert_eq!(line[..2], ["chelsea", "serve"]);
        assert!(line.len() > 5 && parse(&line).is_ok(), "{line:?}: {:?}", parse(&line));
        // Dynamo's are started by a script that puts `chelsea serve` in front.
        let dynamo = include_str!("../../../../deploy/kubernetes/dynamo.yaml");
        let start = dynamo.find("command: [/usr/local/bin/worker.sh]").unwrap();
        let args = dynamo[start..].lines().skip(2).map_while(|line| line.trim().strip_prefix("- "));
        let line: Vec<String> = ["chelsea", "serve"].into_iter().chain(args).map(str::to_owned).collect();
        assert!(line.len() > 5 && parse(&line).is_ok(), "{line:?}: {:?}", parse(&line));
    }

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

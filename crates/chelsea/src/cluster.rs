//! What makes `chelsea serve` one server of many: the interface that routers speak, and caches that are handed over.

use crate::cli::ClusterArgs;
use anyhow::{Context as _, Result, bail};
use chelsea_engine::Scheduler;
use chelsea_serve::{Serving, TransferOptions};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How caches are handed over, of a server that listens on `address`.
pub fn transfer(args: &ClusterArgs, address: SocketAddr) -> Result<TransferOptions> {
    let token = match &args.transfer_token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the token of transfers from {}", file.display()))?;
            Some(token(&text).with_context(|| format!("{} holds no token of transfers", file.display()))?)
        }
        None => match std::env::var("CHELSEA_TRANSFER_TOKEN") {
            Ok(text) => Some(token(&text).context("CHELSEA_TRANSFER_TOKEN holds no token of transfers")?),
            Err(_) => None,
        },
    };
    if token.is_none()
        && let Some(flag) = of_transfers(args)
    {
        bail!(
            "{flag} says how caches are handed over, which needs --transfer-token-file: give that, too, or leave it out"
        );
    }
    if args.transfer_url.is_none() && address.ip().is_unspecified() && token.is_some() {
        tracing::warn!("peers cannot reach this server at {address}: say where they can with --transfer-url");
    }
    let usual = TransferOptions::default();
    Ok(TransferOptions {
        token,
        peers: args.transfer_peer.clone(),
        url: args.transfer_url.clone().unwrap_or_else(|| format!("http://{address}")),
        keep: args.transfer_keep.map_or(usual.keep, Duration::from_secs),
        bytes: args.transfer_bytes.map_or(usual.bytes, |bytes| bytes as u64),
        ..usual
    })
}

/// The token in a text.
fn token(text: &str) -> Option<String> {
    Some(text.trim()).filter(|token| !token.is_empty()).map(str::to_owned)
}

/// A flag that says how caches are handed over, if one was given.
fn of_transfers(args: &ClusterArgs) -> Option<&'static str> {
    let given = [
        ("--transfer-peer", !args.transfer_peer.is_empty()),
        ("--transfer-url", args.transfer_url.is_some()),
        ("--transfer-keep", args.transfer_keep.is_some()),
        ("--transfer-bytes", args.transfer_bytes.is_some()),
    ];
    given.into_iter().find_map(|(flag, given)| given.then_some(flag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn of(flags: &[&str]) -> Result<TransferOptions> {
        let words = ["chelsea", "serve", "--model=m"];
        let Command::Serve(args) = Cli::try_parse_from(words.iter().chain(flags)).unwrap().command else { panic!() };
        transfer(&args.cluster, ([127, 0, 0, 1], 8080).into())
    }

    #[test]
    fn flags_of_transfers_need_a_token_and_a_file_for_it_holds_one() {
        let folder = tempfile::tempdir().unwrap();
        let (empty, full) = (folder.path().join("empty"), folder.path().join("full"));
        std::fs::write(&empty, " \n").unwrap();
        std::fs::write(&full, "secret\n").unwrap();
        let file = |path: &Path| format!("--transfer-token-file={}", path.display());
        assert!(of(&[&file(&empty)]).unwrap_err().to_string().contains("holds no token"));
        assert!(of(&[&file(&folder.path().join("none"))]).is_err());
        for flag in ["--transfer-peer=a:1", "--transfer-url=http://a:1", "--transfer-keep=5", "--transfer-bytes=1GiB"] {
            let told = of(&[flag]).unwrap_err().to_string();
            assert!(told.contains(flag.split('=').next().unwrap()) && told.contains("--transfer-token-file"), "{told}");
            assert_eq!(of(&[flag, &file(&full)]).unwrap().token.as_deref(), Some("secret"), "{flag}");
        }
        assert_eq!(of(&[]).unwrap().token, None);
        assert_eq!(of(&[&file(&full), "--transfer-keep=5"]).unwrap().keep, Duration::from_secs(5));
    }
}

pub use with::{Routers, listen};

#[cfg(feature = "grpc")]
mod with {
    use super::*;
    use chelsea_serve::grpc::{self, Announcer, GrpcOptions};
    use tokio::net::TcpListener;

    /// What waits for routers.
    pub struct Routers(Option<Open>);

    struct Open {
        listener: TcpListener,
        address: SocketAddr,
        announcer: Option<Announcer>,
        options: GrpcOptions,
    }

    /// Opens the ports for routers, if there are to be any, and has `scheduler` tell of its checkpoints.
    ///
    /// # Errors
    /// If a port is taken.
    pub async fn listen(args: &ClusterArgs, model: &Path, scheduler: &mut Scheduler) -> Result<Routers> {
        let Some(port) = args.grpc_port else { return Ok(Routers(None)) };
        if !args.grpc_host.is_loopback() {
            tracing::warn!("everybody who can reach {} may ask by gRPC, which knows no keys", args.grpc_host);
            if args.kv_events_port.0.is_some() {
                tracing::warn!(
                    "and hears the tokens of prompts that come that way, unless they have a salt: --kv-events-port off tells \
                     nobody"
                );
            }
        }
        let address = SocketAddr::new(args.grpc_host, port);
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {address}: choose another with --grpc-port"))?;
        let address = listener.local_addr().context("the listener has no address")?;
        let (announcer, announced) = match args.kv_events_port.0 {
            None => (None, None),
            Some(port) => {
                let opened = Announcer::open(args.grpc_host, port).await;
                let (announcer, announced, watcher) = opened.with_context(|| {
                    format!("cannot tell of checkpoints on port {port}: choose another with --kv-events-port")
                })?;
                scheduler.watch_shelf(watcher);
                (Some(announcer), Some(announced))
            }
        };
        // A model that lies in one file has no folder that a router could read: one is made once the model is there.
        let source = args.tokenizer_from.as_deref().or(Some(model).filter(|model| model.is_dir()));
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let source = source.map(|path| absolute(path).display().to_string());
        let options = GrpcOptions { source: source.unwrap_or_default(), events: announced };
        Ok(Routers(Some(Open { listener, address, announcer, options })))
    }

    impl Routers {
        /// Where they find the server.
        pub fn rows(&self) -> Vec<[String; 2]> {
            let Some(open) = &self.0 else { return Vec::new() };
            let events =
                open.options.events.iter().map(|events| ["checkpoints told on".into(), events.endpoint.clone()]);
            std::iter::once(["gRPC on".into(), open.address.to_string()]).chain(events).collect()
        }

        /// Answers them until `ending` comes to pass.
        ///
        /// # Errors
        /// If the listener fails.
        pub async fn serve(
            self,
            serving: Arc<Serving>,
            ending: impl Future<Output = ()> + Send + 'static,
        ) -> Result<()> {
            let Some(Open { listener, announcer, mut options, .. }) = self.0 else { return Ok(()) };
            if let Some(announcer) = announcer {
                tokio::spawn(announcer.run());
            }
            if options.source.is_empty() {
                let models = chelsea_hub::Options::from_env().models_dir();
                let root = models.parent().unwrap_or(&models).join("tokenizers");
                let folder = grpc::describe(&serving, &root).with_context(|| {
                    let root = root.display();
                    format!(
                        "cannot write the tokenizer down for routers in {root}: name a folder with --tokenizer-from"
                    )
                })?;
                options.source = folder.display().to_string();
            }
            grpc::serve(listener, serving, options, ending).await.context("the interface for routers failed")
        }
    }
}

#[cfg(not(feature = "grpc"))]
mod with {
    use super::*;

    /// Nothing waits for routers.
    pub struct Routers;

    /// Refuses to open ports that nothing would answer on.
    ///
    /// # Errors
    /// If one was asked for.
    pub async fn listen(args: &ClusterArgs, _: &Path, _: &mut Scheduler) -> Result<Routers> {
        match args.grpc_port {
            None => Ok(Routers),
            Some(_) => bail!("this program was built without gRPC: build it with `--features grpc`"),
        }
    }

    impl Routers {
        pub fn rows(&self) -> Vec<[String; 2]> {
            Vec::new()
        }

        pub async fn serve(self, _: Arc<Serving>, _: impl Future<Output = ()> + Send + 'static) -> Result<()> {
            Ok(())
        }
    }
}

//! What makes `chelsea serve` one server of many: the interface that routers speak, and caches that are handed over.

use crate::cli::ClusterArgs;
use anyhow::{Context as _, Result};
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
            let text = std::fs::read_to_string(file);
            Some(text.with_context(|| format!("cannot read the token of transfers from {}", file.display()))?)
        }
        None => std::env::var("CHELSEA_TRANSFER_TOKEN").ok(),
    };
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    if token.is_none() && !args.transfer_peer.is_empty() {
        tracing::warn!("peers were named, and nothing can be fetched from them without --transfer-token-file");
    }
    if args.transfer_url.is_none() && address.ip().is_unspecified() && token.is_some() {
        tracing::warn!("peers cannot reach this server at {address}: say where they can with --transfer-url");
    }
    Ok(TransferOptions {
        token,
        peers: args.transfer_peer.clone(),
        url: args.transfer_url.clone().unwrap_or_else(|| format!("http://{address}")),
        keep: Duration::from_secs(args.transfer_keep),
        bytes: args.transfer_bytes as u64,
        ..TransferOptions::default()
    })
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
        announcer: Announcer,
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
        }
        let address = SocketAddr::new(args.grpc_host, port);
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {address}: choose another with --grpc-port"))?;
        let address = listener.local_addr().context("the listener has no address")?;
        let opened = Announcer::open(args.grpc_host, args.kv_events_port).await;
        let (announcer, announced, watcher) = opened.with_context(|| {
            format!("cannot tell of checkpoints on port {}: choose another with --kv-events-port", args.kv_events_port)
        })?;
        scheduler.watch_shelf(watcher);
        // A model that lies in one file has no folder that a router could read: one is made once the model is there.
        let source = args.tokenizer_from.as_deref().or(Some(model).filter(|model| model.is_dir()));
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let source = source.map(|path| absolute(path).display().to_string());
        let options = GrpcOptions { source: source.unwrap_or_default(), events: Some(announced) };
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
            tokio::spawn(announcer.run());
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
            Some(_) => anyhow::bail!("this program was built without gRPC: build it with `--features grpc`"),
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

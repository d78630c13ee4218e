//! The interface that routers of many machines speak: vLLM's own, over gRPC, so that NVIDIA Dynamo's sidecar drives this
//! server as it drives vLLM.
//!
//! `vllm.Inference` takes tokens or text and streams tokens and text (`inference`, `request`, `told`). `vllm.Control`
//! says which model is here and within what limits, ends requests, and tells where to hear which prefixes lie in checkpoints
//! (`control`, `events`, `blocks`). The standard health service says `SERVING` until the server drains; from then on
//! new requests are answered with `UNAVAILABLE`, which a router takes as its cue to ask another worker.
//!
//! The interface has no keys: it is for a sidecar on the same machine, or within a network of one's own.

mod blocks;
mod control;
mod describe;
mod events;
mod inference;
mod request;
mod status;
mod told;

pub use describe::describe;
pub use events::{Announced, Announcer};

use crate::Serving;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::codegen::tokio_stream::Stream;
use tonic_health::ServingStatus;
use vllm_proto::control_server::ControlServer;
use vllm_proto::inference_server::InferenceServer;

/// Names under which the health service tells how it is; the empty one stands for the server.
const SERVICES: [&str; 3] = ["", "vllm.Control", "vllm.Inference"];

/// Whose requests they are that come this way without a salt: nobody else's checkpoints are theirs.
pub(crate) const KEY: u64 = 0x6772_7063_6772_7063;

/// Tokens of a block, in which routers count prefixes. Entries lie in pages whatever it is.
pub const BLOCK: usize = 16;

/// Most bytes of a message: the most that Dynamo's sidecar sends.
const MESSAGE: usize = 64 << 20;

/// What the services share.
pub(crate) struct Service {
    serving: Arc<Serving>,
    events: Option<Announced>,
    /// Where the model's tokenizer can be read from.
    source: String,
    /// Names this server among others, until it ends.
    instance: String,
    aborts: Aborts,
}

/// The services themselves.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Service>);

/// Several requests may have one name: each has a number of its own, and a way to end it.
type ByName = HashMap<String, Vec<(u64, oneshot::Sender<()>)>>;

/// Requests by the names that callers gave them, each with a way to end it.
#[derive(Default)]
pub(crate) struct Aborts {
    named: Mutex<ByName>,
    next: AtomicU64,
}

/// Takes a request off the list when it ends, however it does.
pub(crate) struct Named {
    service: Arc<Service>,
    name: String,
    number: u64,
}

impl Aborts {
    fn named(&self) -> MutexGuard<'_, ByName> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every request of this name.
    fn abort(&self, name: &str) {
        for (_, sender) in self.named().remove(name).into_iter().flatten() {
            // It may have ended just now.
            let _gone = sender.send(());
        }
    }
}

impl Named {
    fn new(service: &Arc<Service>, name: &str) -> (Named, oneshot::Receiver<()>) {
        let (sender, told) = oneshot::channel();
        let number = service.aborts.next.fetch_add(1, Ordering::Relaxed);
        service.aborts.named().entry(name.to_owned()).or_default().push((number, sender));
        (Named { service: service.clone(), name: name.to_owned(), number }, told)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let mut named = self.service.aborts.named();
        if let Some(requests) = named.get_mut(&self.name) {
            requests.retain(|(number, _)| *number != self.number);
            if requests.is_empty() {
                named.remove(&self.name);
            }
        }
    }
}

/// How the interface is served.
#[derive(Debug, Clone, Default)]
pub struct GrpcOptions {
    /// Folder or file from which a router can read the model's tokenizer and chat template.
    pub source: String,
    /// Where it is told which prefixes lie in checkpoints.
    pub events: Option<Announced>,
}

/// Answers until `ending` comes to pass; then no request is taken any more, those that were taken are answered, and the
/// server ends.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    serving: Arc<Serving>,
    options: GrpcOptions,
    ending: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let GrpcOptions { source, events } = options;
    let aborts = Aborts::default();
    let service = Shared(Arc::new(Service {
        serving: serving.clone(),
        events,
        source,
        instance: format!("{:016x}", rand::random::<u64>()),
        aborts,
    }));
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in SERVICES {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let engine = serving.engine.clone();
    let (ended, mut told) = tokio::sync::watch::channel(false);
    let signal = async move {
        ending.await;
        engine.drain();
        for name in SERVICES {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
        let _nobody = ended.send(true);
        // Until everything was answered the services go on to say so: a router that asks hears UNAVAILABLE.
        while engine.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let inference = InferenceServer::new(service.clone()).max_decoding_message_size(MESSAGE);
    let control = ControlServer::new(service).max_decoding_message_size(MESSAGE);
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(health)
        .add_service(inference)
        .add_service(control)
        .serve_with_incoming_shutdown(incoming(listener), signal);
    let (engine, answers) = (serving.engine.clone(), serving.answers.clone());
    let idle = async move {
        drop(told.wait_for(|&ended| ended).await);
        // Connections that are kept open for nothing do not hold the end up for long.
        answers.read(&engine).await;
    };
    tokio::select! {
        result = server => result.map_err(io::Error::other),
        () = idle => Ok(()),
    }
}

/// Connections as they come. One that fails to come is no reason to end.
fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<tokio::net::TcpStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _slower = stream.set_nodelay(true);
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!("a connection was not made: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

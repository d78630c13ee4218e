//! Caches handed from one server to another, so that one reads prompts and another answers.
//!
//! Who reads is asked with `kv_transfer_params: {"do_remote_decode": true}`. The cache of the whole prompt is then kept for
//! a while (`store`) in the shape of a snapshot with the logits after it (`stream`), and its answer says where:
//! `{url, digest, bytes}`. Whoever is asked to go on from these fetches the cache (`fetch`), holds it against its digest
//! and against the prompt and the settings of the request, and maps it; the answer is then the one it would have given had it
//! read the prompt itself. Where anything is wrong with what came, the prompt is read here, and the answer is the same.
//!
//! A server fetches from peers it was told of at its start and from nobody else, whatever a request says; and it hands
//! over only to who knows the token that all of them share, which no request and no answer holds.

mod fetch;
mod params;
pub mod route;
mod store;
pub mod stream;

pub use params::{Offer, Wanted};
#[cfg(feature = "grpc")]
pub(crate) use params::{from_struct, to_struct};

use crate::answer::{Ask, Running};
use crate::{ApiError, Serving};
use chelsea_engine::{Sequence, scheduler};
use futures_util::future::try_join_all;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::Store;
use tokio::sync::oneshot;

/// How caches are handed over.
#[derive(Debug, Clone)]
pub struct TransferOptions {
    /// What peers show each other. Without one, nothing is handed over and nothing fetched.
    pub token: Option<String>,
    /// The `host:port` of servers that caches are fetched from.
    pub peers: Vec<String>,
    /// The `http://host:port` at which peers reach this server.
    pub url: String,
    /// How long a cache is kept for whoever is to fetch it.
    pub keep: Duration,
    /// Bytes of all caches that are kept.
    pub bytes: u64,
    /// How long a peer may say nothing.
    pub patience: Duration,
}

impl Default for TransferOptions {
    fn default() -> Self {
        TransferOptions {
            token: None,
            peers: Vec::new(),
            url: String::new(),
            keep: Duration::from_secs(120),
            bytes: 4 << 30,
            patience: Duration::from_secs(10),
        }
    }
}

/// Caches on their way, and what became of others.
#[derive(Debug, Default)]
pub struct Transfer {
    pub(crate) options: TransferOptions,
    store: Store,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    offered: AtomicU64,
    sent_bytes: AtomicU64,
    taken: AtomicU64,
    taken_bytes: AtomicU64,
    taken_micros: AtomicU64,
    refused: AtomicU64,
}

impl Transfer {
    /// As these options say.
    pub fn new(options: TransferOptions) -> Transfer {
        let store = Store::new(options.keep, options.bytes);
        Transfer { options, store, counts: Counts::default() }
    }

    /// What `/metrics` tells.
    pub(crate) fn figures(&self, labels: &str) -> String {
        let Counts { offered, sent_bytes, taken, taken_bytes, taken_micros, refused } = &self.counts;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let rows = [
            ("kv_handed_over_total", "counter", count(offered), "Caches that were kept for a peer to fetch."),
            ("kv_handed_over_bytes_total", "counter", count(sent_bytes), "Bytes of caches that peers were sent."),
            ("kv_taken_over_total", "counter", count(taken), "Caches that were fetched from peers and gone on from."),
            ("kv_taken_over_bytes_total", "counter", count(taken_bytes), "Bytes of these."),
            (
                "kv_taken_over_seconds_total",
                "counter",
                count(taken_micros) / 1e6,
                "Time spent fetching and checking these.",
            ),
            (
                "kv_refused_total",
                "counter",
                count(refused),
                "Caches of peers that were not gone on from: the prompt was read.",
            ),
            ("kv_kept_for_peers_bytes", "gauge", self.store.bytes() as f64, "Bytes of caches that wait for a peer."),
        ];
        let mut out = String::new();
        for (name, kind, value, help) in rows {
            let name = format!("chelsea:{name}");
            let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value}");
        }
        out
    }
}

/// A cache that is to be handed over once its prompt was read.
pub(crate) struct Handing {
    cache: oneshot::Receiver<Sequence>,
    about: stream::About,
}

impl Handing {
    /// Keeps the cache for whoever fetches it.
    ///
    /// # Errors
    /// If there was no room for it.
    pub(crate) async fn offer(self, serving: &Arc<Serving>) -> Result<Offer, ApiError> {
        let none =
            |_| ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "there was no room to hand the cache over");
        let sequence = self.cache.await.map_err(none)?;
        let (serving, about) = (serving.clone(), self.about);
        crate::router::aside(move || {
            let transfer = &serving.transfer;
            let offer = transfer.store.keep(&transfer.options.url, &sequence, &about);
            let offer = offer.map_err(|error| {
                let text = format!("the cache cannot be handed over: {error}");
                ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, text)
            })?;
            transfer.counts.offered.fetch_add(1, Ordering::Relaxed);
            Ok(offer)
        })
        .await
    }
}

/// Starts a request, and carries out what it says of caches that are handed over.
///
/// # Errors
/// Those of [`Running::start`], and if a cache is to be handed over by a server that was not set up for that.
pub(crate) async fn start(
    serving: &Arc<Serving>,
    ask: Ask,
    wanted: Wanted,
) -> Result<(Running, Option<Handing>), ApiError> {
    if wanted == Wanted::default() {
        return Ok((Running::start(serving, ask).await?, None));
    }
    let settings =
        scheduler::settings_of(&serving.model, &ask.session).map_err(|error| ApiError::bad(error.to_string()))?;
    let cuts = ask.pieces.iter().map(|piece| piece.len()).filter(|&length| length > 0).collect();
    let about = stream::About { settings, cuts };
    if wanted.hand_over && serving.transfer.options.token.is_none() {
        let text =
            "`kv_transfer_params` asks for a cache to be handed over: start the server with --transfer-token-file";
        return Err(ApiError::field("kv_transfer_params", text));
    }
    let given = match wanted.take_over {
        None => None,
        Some(offer) => take_over(serving, &ask, offer, about.clone()).await,
    };
    let (sender, cache) = oneshot::channel();
    let running = Running::start_with(serving, ask, given, wanted.hand_over.then_some(sender)).await?;
    Ok((running, wanted.hand_over.then_some(Handing { cache, about })))
}

/// Starts the answers of a request, of which there may be several where nothing is to be done with caches.
///
/// # Errors
/// As [`start`], and if there are several, or the answer is a stream and its cache is to be handed over: an offer has no
/// place in those.
pub(crate) async fn start_all(
    serving: &Arc<Serving>,
    mut asks: Vec<Ask>,
    wanted: Wanted,
    streams: bool,
) -> Result<(Vec<Running>, Option<Handing>), ApiError> {
    if wanted == Wanted::default() {
        let running = try_join_all(asks.into_iter().map(|ask| Running::start(serving, ask))).await?;
        return Ok((running, None));
    }
    let wrong = |what: &str| Err(ApiError::field("kv_transfer_params", format!("`kv_transfer_params` {what}")));
    if wanted.hand_over && streams {
        return wrong("asks for a cache to be handed over: ask without `stream`");
    }
    match (asks.pop(), asks.is_empty()) {
        (Some(ask), true) => {
            let (running, handing) = start(serving, ask, wanted).await?;
            Ok((vec![running], handing))
        }
        _ => wrong("is of one prompt and one answer: ask for each apart"),
    }
}

/// Adds where the cache can be fetched to an answer.
///
/// # Errors
/// If it cannot be handed over.
pub(crate) async fn add_offer(
    value: &mut Value,
    serving: &Arc<Serving>,
    handing: Option<Handing>,
) -> Result<(), ApiError> {
    if let Some(handing) = handing {
        value["kv_transfer_params"] = handing.offer(serving).await?.to_json();
    }
    Ok(())
}

/// What a peer made of the prompt; nothing if that cannot be gone on from.
async fn take_over(serving: &Arc<Serving>, ask: &Ask, offer: Offer, about: stream::About) -> Option<Sequence> {
    let start = Instant::now();
    let bytes = offer.bytes;
    let (fetching, pieces, session) = (serving.clone(), ask.pieces.clone(), ask.session.clone());
    let work = move || fetch::fetch(&fetching, &offer, &pieces, &session, &about);
    let counts = &serving.transfer.counts;
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(sequence)) => {
            counts.taken.fetch_add(1, Ordering::Relaxed);
            counts.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
            counts.taken_micros.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
            Some(sequence)
        }
        Ok(Err(error)) => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a cache was not taken over, and its prompt is read here: {error}");
            None
        }
        Err(_) => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a cache was not taken over, and its prompt is read here: the work was lost");
            None
        }
    }
}

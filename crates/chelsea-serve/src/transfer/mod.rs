//! Caches handed from one server to another, so that one reads prompts and another answers.
//!
//! Who reads is asked with `kv_transfer_params: {"do_remote_decode": true}`. The cache of the whole prompt is then kept for
//! a while (`store`) in the shape of a snapshot with the logits after it (`stream`), and its answer says where:
//! `{url, digest, bytes}`. Whoever is asked to go on from these fetches the cache (`fetch`), holds it against its digest
//! and against the prompt and the settings of the request, and reads it into memory that counts like any other; the answer
//! is then the one it would have given had it
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
use chelsea_engine::scheduler::{self, Handed};
use chelsea_engine::{Sequence, SessionOptions};
use futures_util::future::try_join_all;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::Store;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

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
#[derive(Debug)]
pub struct Transfer {
    pub(crate) options: TransferOptions,
    store: Store,
    counts: Counts,
    /// Turns of those that fetch.
    fetching: Arc<Semaphore>,
}

/// Caches that are fetched at once: each lies in a file meanwhile, and holds a thread.
const FETCHES: usize = 4;

impl Default for Transfer {
    fn default() -> Self {
        Transfer::new(TransferOptions::default())
    }
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
        Transfer { options, store, counts: Counts::default(), fetching: Arc::new(Semaphore::new(FETCHES)) }
    }

    /// Takes note of what became of a cache that was fetched.
    pub(crate) fn went_on(&self, arrived: Arrived, went_on: bool) {
        let counts = &self.counts;
        if !went_on {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a cache that was fetched was given up for want of memory, and its prompt is read here");
            return;
        }
        counts.taken.fetch_add(1, Ordering::Relaxed);
        counts.taken_bytes.fetch_add(arrived.bytes, Ordering::Relaxed);
        counts.taken_micros.fetch_add(arrived.took.as_micros() as u64, Ordering::Relaxed);
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

/// A cache that is handed over once its prompt was read: it is written as soon as there is one, whether or not anybody reads
/// the answer meanwhile, so that its memory is free again soon.
pub(crate) struct Handing(oneshot::Receiver<Offer>);

impl Handing {
    fn begin(serving: &Arc<Serving>, cache: oneshot::Receiver<Handed>, about: stream::About) -> Handing {
        let (tell, told) = oneshot::channel();
        let serving = serving.clone();
        tokio::spawn(async move {
            // The request ended before its prompt was read, or there was no memory for a fork.
            let Ok(handed) = cache.await else { return };
            let keeping = serving.clone();
            let keep = move || {
                let transfer = &keeping.transfer;
                let sequence = handed.sequence()?;
                match transfer.store.keep(&transfer.options.url, sequence, &about) {
                    Ok(offer) => Some(offer),
                    Err(error) => {
                        tracing::warn!("a cache is not handed over, and its answer says nothing of it: {error}");
                        None
                    }
                }
            };
            let Ok(Some(offer)) = tokio::task::spawn_blocking(keep).await else { return };
            serving.transfer.counts.offered.fetch_add(1, Ordering::Relaxed);
            if let Err(unheard) = tell.send(offer) {
                serving.transfer.store.give_up(unheard.id());
                return;
            }
            // Its file goes in time, even if nobody asks for anything any more.
            let (keep, serving) = (serving.transfer.options.keep, Arc::downgrade(&serving));
            tokio::time::sleep(keep + Duration::from_millis(10)).await;
            if let Some(serving) = serving.upgrade() {
                serving.transfer.store.bytes();
            }
        });
        Handing(told)
    }

    /// Where the cache lies; nothing if it could not be kept, which is no reason to lose the answer.
    pub(crate) async fn offer(self) -> Option<Offer> {
        self.0.await.ok()
    }
}

/// A cache that was fetched, until it is known whether it was gone on from.
#[derive(Debug)]
pub(crate) struct Arrived {
    bytes: u64,
    took: Duration,
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
    let mounts = serving.settings.mounts.iter().map(|mount| (&mount.about, mount.digest.as_str()));
    let settings = scheduler::settings_of(&serving.model, &ask.session, &ask.pieces, mounts)
        .map_err(|error| ApiError::bad(error.to_string()))?;
    let cuts = ask.pieces.iter().map(|piece| piece.len()).filter(|&length| length > 0).collect();
    let about = stream::About { settings, cuts };
    if wanted.hand_over && serving.transfer.options.token.is_none() {
        let text =
            "`kv_transfer_params` asks for a cache to be handed over: start the server with --transfer-token-file";
        return Err(ApiError::field("kv_transfer_params", text));
    }
    let (sender, cache) = wanted.hand_over.then(oneshot::channel).unzip();
    let (mut request, events) = ask.into_request(sender);
    let mut given = None;
    if let Some(offer) = &wanted.take_over {
        // Nothing is fetched for a request that is refused anyway, and its peer keeps the cache for another server.
        request = serving.engine.check(request).await.map_err(|error| serving.metrics.refused(error))?;
        let read = (request.pieces.clone(), request.session.clone());
        given = take_over(serving, offer.clone(), read, about.clone()).await;
    }
    let arrived = given.is_some();
    let running = Running::submit(serving, request, events, given).await?;
    if let Some(offer) = wanted.take_over.filter(|_| arrived) {
        let serving = serving.clone();
        tokio::task::spawn_blocking(move || fetch::say_arrived(&serving.transfer.options, &offer));
    }
    let handing = cache.map(|cache| Handing::begin(serving, cache, about));
    Ok((running, handing))
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

/// Adds where the cache can be fetched to an answer, if it can.
pub(crate) async fn add_offer(value: &mut Value, handing: Option<Handing>) {
    if let Some(handing) = handing
        && let Some(offer) = handing.offer().await
    {
        value["kv_transfer_params"] = offer.to_json();
    }
}

/// Says that nobody waits any more.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a peer made of the prompt; nothing if that cannot be gone on from. When whoever asked is gone, it ends.
async fn take_over(
    serving: &Arc<Serving>,
    offer: Offer,
    (pieces, session): (Vec<Arc<[u32]>>, SessionOptions),
    about: stream::About,
) -> Option<(Sequence, Arrived)> {
    let transfer = &serving.transfer;
    let refuse = |why: &dyn std::fmt::Display| {
        transfer.counts.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("a cache was not taken over, and its prompt is read here: {why}");
    };
    let start = Instant::now();
    let Ok(Ok(permit)) = timeout(transfer.options.patience, transfer.fetching.clone().acquire_owned()).await else {
        refuse(&format_args!("{FETCHES} others are being fetched"));
        return None;
    };
    let cancel = Cancel(Arc::default());
    let (bytes, cancelled) = (offer.bytes, cancel.0.clone());
    let fetching = serving.clone();
    let work = move || {
        let _permit = permit;
        fetch::fetch(&fetching, &offer, &pieces, &session, &about, &cancelled)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(sequence)) => Some((sequence, Arrived { bytes, took: start.elapsed() })),
        Ok(Err(error)) => {
            refuse(&error);
            None
        }
        Err(_) => {
            refuse(&"the work was lost");
            None
        }
    }
}

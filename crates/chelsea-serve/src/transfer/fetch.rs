//! A cache that a peer keeps, fetched, checked and read into memory.

use super::stream::{self, About, StreamError};
use super::{Offer, TransferOptions};
use crate::Serving;
use chelsea_engine::{EngineError, Sequence, SessionOptions};
use chelsea_kv::CacheError;
use chelsea_kv::snapshot::{self, Expected, SnapshotError};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Times that a transfer may break off: the last time it is given up, and before that taken up again where it was.
const TRIES: u32 = 4;
/// The pause after the first time; after the second it is twice as long, and so on.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are written at once.
const CHUNK: usize = 1 << 18;

/// Why a cache was not taken over.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("no token was given at the start (--transfer-token-file)")]
    NoToken,
    #[error("{0} is no peer of this server: allow it with --transfer-peer HOST:PORT")]
    NoPeer(String),
    #[error("it is said to have {bytes} bytes, and {limit} is the most that is taken")]
    TooLong { bytes: u64, limit: u64 },
    #[error("it broke off after {got} of {bytes} bytes: {why}")]
    BrokeOff { got: u64, bytes: u64, why: String },
    #[error("whoever asked for it is gone")]
    Cancelled,
    #[error("there is no room for its {0} bytes")]
    NoRoom(usize),
    #[error("the peer answered with status {0}")]
    Status(u16),
    #[error("it is damaged, or another than the one that was promised: its digest is wrong")]
    Digest,
    #[error("it was read from another prompt, or cut elsewhere")]
    OtherPrompt,
    #[error(
        "it is kept in another way: `{found}`, and here `{own}` (give both servers the same --read-step and settings)"
    )]
    OtherSettings { found: String, own: String },
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The path of a URL that leads to a peer.
fn path_at_peer<'u>(url: &'u str, peers: &[String]) -> Option<&'u str> {
    let (authority, id) = url.strip_prefix("http://")?.split_once("/v1/kv/")?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && peers.iter().any(|peer| peer == authority)).then_some(id)
}

/// Fetches a cache and makes of it what reading the prompt here would have made.
pub(super) fn fetch(
    serving: &Serving,
    offer: &Offer,
    pieces: &[Arc<[u32]>],
    session: &SessionOptions,
    about: &About,
    cancelled: &AtomicBool,
) -> Result<Sequence, FetchError> {
    let options = &serving.transfer.options;
    let token = options.token.as_deref().ok_or(FetchError::NoToken)?;
    if path_at_peer(&offer.url, &options.peers).is_none() {
        // Not all of what a request holds goes into the log.
        let shown: String = offer.url.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(FetchError::NoPeer(shown));
    }
    // What all caches together may take, and what comes beside one.
    let pool = serving.engine.pool();
    let limit = pool.limit().map_or(options.bytes, |limit| limit as u64).saturating_add(stream::MOST);
    if offer.bytes > limit {
        return Err(FetchError::TooLong { bytes: offer.bytes, limit });
    }
    let mut file = tempfile::NamedTempFile::new()?;
    let mut download = Download { offer, token, patience: options.patience, cancelled, got: 0, hash: Sha256::new() };
    download.run(file.as_file_mut())?;
    let (trailer, bytes) = split(file.as_file_mut(), offer.bytes)?;
    if trailer.about.settings != about.settings {
        return Err(FetchError::OtherSettings { found: trailer.about.settings, own: about.settings.clone() });
    }
    let expected = Expected { fingerprint: serving.model.fingerprint(), shape: serving.model.cache_shape() };
    let policy = Some(session.policy.clone());
    // Memory is given out in pages, so that it takes somewhat more there.
    let bytes = usize::try_from(bytes + bytes / 4).unwrap_or(usize::MAX);
    let until = Instant::now() + options.patience;
    let (cache, info) = loop {
        if serving.engine.make_room_for(bytes) {
            match snapshot::read_in(pool.clone(), file.path(), Some(&expected), policy.clone()) {
                // Somebody else was faster.
                Err(SnapshotError::Cache(CacheError::Pool(_))) => {}
                read => break read?,
            }
        }
        if cancelled.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled);
        }
        if Instant::now() > until {
            return Err(FetchError::NoRoom(bytes));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let same = pieces.iter().flat_map(|piece| piece.iter()).eq(&info.tokens);
    if !same || trailer.about.cuts != about.cuts {
        return Err(FetchError::OtherPrompt);
    }
    let session = SessionOptions { pool: pool.clone(), ..session.clone() };
    let sequence = Sequence::with_cache(serving.model.clone(), &session, cache, info.tokens)?;
    Ok(sequence.with_logits(trailer.logits)?)
}

fn agent(patience: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        // A peer that sends elsewhere is none.
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        // Of one part, which is short.
        .timeout_recv_body(Some(patience))
        .build()
        .into()
}

/// Bytes that are asked for at once. Each part has to come in time, so a peer that falls silent is given up soon, and so is
/// one that sends hardly anything.
const PART: u64 = 16 << 20;
/// Bytes a second at least, over all parts.
const LEAST_RATE: u64 = 1 << 20;
/// How long a transfer takes at most, however large it is.
const LONGEST: Duration = Duration::from_secs(600);

/// A transfer under way.
struct Download<'o> {
    offer: &'o Offer,
    token: &'o str,
    patience: Duration,
    cancelled: &'o AtomicBool,
    got: u64,
    hash: Sha256,
}

impl Download<'_> {
    /// Fetches all bytes, part by part, taking up again what broke off, and holds them against their digest.
    fn run(&mut self, file: &mut File) -> Result<(), FetchError> {
        let (agent, bytes) = (agent(self.patience), self.offer.bytes);
        let until = Instant::now() + (self.patience * TRIES + Duration::from_secs(bytes / LEAST_RATE)).min(LONGEST);
        let mut failures = 0;
        while self.got < bytes {
            self.go_on(until)?;
            let Err(why) = self.part(&agent, file)? else { continue };
            failures += 1;
            if failures == TRIES {
                return Err(FetchError::BrokeOff { got: self.got, bytes, why });
            }
            std::thread::sleep(PAUSE.min(self.patience) * failures);
        }
        let digest: String = self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if digest == self.offer.digest { Ok(()) } else { Err(FetchError::Digest) }
    }

    /// Whether it is worth to go on.
    fn go_on(&self, until: Instant) -> Result<(), FetchError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled);
        }
        if Instant::now() > until {
            let why = "it takes too long".into();
            return Err(FetchError::BrokeOff { got: self.got, bytes: self.offer.bytes, why });
        }
        Ok(())
    }

    /// Fetches one part. Says in words why it broke off, where another try may help.
    fn part(&mut self, agent: &ureq::Agent, file: &mut File) -> Result<Result<(), String>, FetchError> {
        let end = self.got.saturating_add(PART).min(self.offer.bytes);
        let request = agent.get(&self.offer.url).header("Authorization", format!("Bearer {}", self.token));
        let mut response = match request.header("Range", format!("bytes={}-{}", self.got, end - 1)).call() {
            Ok(response) => response,
            Err(error) => return Ok(Err(error.to_string())),
        };
        match response.status().as_u16() {
            206 => {}
            status => return Err(FetchError::Status(status)),
        }
        let mut body = response.body_mut().with_config().limit(end - self.got + 1).reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(FetchError::Cancelled);
            }
            let n = match body.read(&mut chunk) {
                Ok(n) => n,
                Err(error) => return Ok(Err(error.to_string())),
            };
            if n == 0 {
                return Ok(if self.got == end { Ok(()) } else { Err("the connection was closed".into()) });
            }
            if self.got + n as u64 > end {
                return Err(FetchError::Digest);
            }
            file.write_all(&chunk[..n])?;
            self.hash.update(&chunk[..n]);
            self.got += n as u64;
        }
    }
}

/// Takes off what follows the snapshot, so that the file is one, and says how long it is.
fn split(file: &mut File, bytes: u64) -> Result<(stream::Trailer, u64), FetchError> {
    file.flush()?;
    let (trailer, snapshot) = stream::split(file, bytes)?;
    file.set_len(snapshot)?;
    Ok((trailer, snapshot))
}

/// Lets the peer give the cache up. It does so by itself after a while.
pub(super) fn say_arrived(options: &TransferOptions, offer: &Offer) {
    let Some(token) = &options.token else { return };
    let said = agent(options.patience).delete(&offer.url).header("Authorization", format!("Bearer {token}")).call();
    if let Err(error) = said {
        tracing::debug!("a peer keeps a cache for nothing: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_peers_are_asked_and_only_for_caches() {
        let peers = ["reader:8080".to_owned(), "10.0.0.7:80".to_owned()];
        let id = "0123456789abcdef0123456789abcdef";
        for url in [format!("http://reader:8080/v1/kv/{id}"), format!("http://10.0.0.7:80/v1/kv/{id}")] {
            assert_eq!(path_at_peer(&url, &peers), Some(id), "{url}");
        }
        for url in [
            format!("https://reader:8080/v1/kv/{id}"),
            format!("http://reader/v1/kv/{id}"),
            format!("http://reader:8080@evil.example/v1/kv/{id}"),
            format!("http://evil.example/v1/kv/{id}#reader:8080"),
            format!("http://reader:8080/v1/kv/../../health?{id}"),
            format!("http://reader:8080/v1/kv/{id}?x=1"),
            format!("http://169.254.169.254/v1/kv/{id}"),
            format!("file:///v1/kv/{id}"),
            "http://reader:8080/metrics".to_owned(),
            String::new(),
        ] {
            assert_eq!(path_at_peer(&url, &peers), None, "{url}");
        }
    }
}

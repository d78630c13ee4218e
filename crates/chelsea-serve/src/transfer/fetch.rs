//! A cache that a peer keeps, fetched, checked and mapped.

use super::Offer;
use super::stream::{self, About, StreamError};
use crate::Serving;
use chelsea_engine::{EngineError, Sequence, SessionOptions};
use chelsea_kv::snapshot::{self, Expected, SnapshotError};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Times that a transfer is taken up again where it broke off.
const TRIES: usize = 4;
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
) -> Result<Sequence, FetchError> {
    let options = &serving.transfer.options;
    let token = options.token.as_deref().ok_or(FetchError::NoToken)?;
    if path_at_peer(&offer.url, &options.peers).is_none() {
        // Not all of what a request holds goes into the log.
        let shown: String = offer.url.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(FetchError::NoPeer(shown));
    }
    // What all caches together may take, and what comes beside one.
    let limit = serving.settings.session.pool.limit().map_or(u64::MAX, |limit| limit as u64 + (64 << 20));
    if offer.bytes > limit {
        return Err(FetchError::TooLong { bytes: offer.bytes, limit });
    }
    let mut file = tempfile::NamedTempFile::new()?;
    download(offer, token, options.patience, file.as_file_mut())?;
    let trailer = split(file.as_file_mut(), offer.bytes)?;
    if trailer.about.settings != about.settings {
        return Err(FetchError::OtherSettings { found: trailer.about.settings, own: about.settings.clone() });
    }
    let expected = Expected { fingerprint: serving.model.fingerprint(), shape: serving.model.cache_shape() };
    let pool = serving.settings.session.pool.clone();
    let policy = Some(session.policy.clone());
    // The map outlives the name of the file, which goes with this function.
    let (cache, info) = snapshot::load_in(pool, file.path(), Some(&expected), policy)?;
    let same = pieces.iter().flat_map(|piece| piece.iter()).eq(&info.tokens);
    if !same || trailer.about.cuts != about.cuts {
        return Err(FetchError::OtherPrompt);
    }
    let sequence = Sequence::with_cache(serving.model.clone(), session, cache, info.tokens)?;
    let sequence = sequence.with_logits(trailer.logits)?;
    say_arrived(offer, token, options.patience);
    Ok(sequence)
}

/// Bytes a second at least: a peer that sends less is given up.
const LEAST_RATE: u64 = 1 << 20;

fn agent(patience: Duration, bytes: u64) -> ureq::Agent {
    ureq::Agent::config_builder()
        // A peer that sends elsewhere is none.
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_recv_body(Some(patience + Duration::from_secs(bytes / LEAST_RATE)))
        .build()
        .into()
}

/// Fetches all bytes, taking up again what broke off, and holds them against their digest.
fn download(offer: &Offer, token: &str, patience: Duration, file: &mut File) -> Result<(), FetchError> {
    let agent = agent(patience, offer.bytes);
    let (mut got, mut hash, mut why) = (0u64, Sha256::new(), String::new());
    for _ in 0..TRIES {
        let request = agent.get(&offer.url).header("Authorization", format!("Bearer {token}"));
        let request = if got > 0 { request.header("Range", format!("bytes={got}-")) } else { request };
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => {
                why = error.to_string();
                continue;
            }
        };
        match (response.status().as_u16(), got) {
            (200, 0) | (206, 1..) => {}
            (status, _) => return Err(FetchError::Status(status)),
        }
        let mut body = response.body_mut().with_config().limit(offer.bytes - got + 1).reader();
        match copy(&mut body, file, &mut hash, &mut got, offer.bytes) {
            Ok(()) if got == offer.bytes => break,
            Ok(()) => "the connection was closed".clone_into(&mut why),
            Err(error) => why = error.to_string(),
        }
    }
    if got != offer.bytes {
        return Err(FetchError::BrokeOff { got, bytes: offer.bytes, why });
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if digest == offer.digest { Ok(()) } else { Err(FetchError::Digest) }
}

fn copy(body: &mut impl Read, file: &mut File, hash: &mut Sha256, got: &mut u64, most: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = body.read(&mut chunk)?;
        if n == 0 {
            return Ok(());
        }
        if *got + n as u64 > most {
            return Err(io::Error::other("more came than was promised"));
        }
        file.write_all(&chunk[..n])?;
        hash.update(&chunk[..n]);
        *got += n as u64;
    }
}

/// Takes off what follows the snapshot, so that the file is one.
fn split(file: &mut File, bytes: u64) -> Result<stream::Trailer, FetchError> {
    file.flush()?;
    file.seek(SeekFrom::Start(0))?;
    let mut beginning = Vec::new();
    Read::by_ref(file).take(64).read_to_end(&mut beginning)?;
    let snapshot = stream::snapshot_bytes(&beginning, bytes)?;
    file.seek(SeekFrom::Start(snapshot))?;
    let mut rest = Vec::new();
    Read::by_ref(file).take(bytes - snapshot).read_to_end(&mut rest)?;
    let trailer = stream::parse_trailer(&rest)?;
    file.set_len(snapshot)?;
    Ok(trailer)
}

/// Lets the peer give the cache up. It does so by itself after a while.
fn say_arrived(offer: &Offer, token: &str, patience: Duration) {
    let said = agent(patience, 0).delete(&offer.url).header("Authorization", format!("Bearer {token}")).call();
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

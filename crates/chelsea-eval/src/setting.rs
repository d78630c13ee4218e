//! One way to keep the cache, and when it is compressed and asked.

use chelsea_kv::policy::Full;
use chelsea_kv::{Budget, Policy, PolicyError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

/// When the cache is compressed, and when questions come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Once after the document was read; every question is asked of the compressed cache on its own.
    OneShot,
    /// Block by block while the document is read; questions as above.
    Online,
    /// Once after the document and the question were read: whoever compresses may look at the question.
    Aware,
    /// Block by block while document and question are read.
    AwareOnline,
    /// Once after the document; the questions follow each other in one conversation.
    Turns,
    /// Block by block while reading; the questions follow each other.
    TurnsOnline,
    /// As online, with the document in eight pieces, each brought down to its share before the next is read: what a server
    /// does at the end of a message, so that another prompt with the same beginning can go on from there.
    Pieces,
}

/// Pieces of a document that is read in pieces.
pub const PIECES: usize = 8;

/// Every mode with its name.
pub const MODES: &[(&str, Mode)] = &[
    ("one-shot", Mode::OneShot),
    ("online", Mode::Online),
    ("aware", Mode::Aware),
    ("aware-online", Mode::AwareOnline),
    ("turns", Mode::Turns),
    ("turns-online", Mode::TurnsOnline),
    ("pieces", Mode::Pieces),
];

impl Mode {
    /// Whether the cache is compressed while reading.
    pub fn online(self) -> bool {
        matches!(self, Mode::Online | Mode::AwareOnline | Mode::TurnsOnline | Mode::Pieces)
    }

    /// Whether the question is read before compression.
    pub fn aware(self) -> bool {
        matches!(self, Mode::Aware | Mode::AwareOnline)
    }

    /// Whether questions follow each other in one conversation.
    pub fn turns(self) -> bool {
        matches!(self, Mode::Turns | Mode::TurnsOnline)
    }

    /// The same with the cache compressed after reading: what the full cache, which is never compressed, is run in.
    pub fn without_online(self) -> Mode {
        match self {
            Mode::Online | Mode::Pieces => Mode::OneShot,
            Mode::AwareOnline => Mode::Aware,
            Mode::TurnsOnline => Mode::Turns,
            other => other,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = MODES.iter().find(|(_, mode)| mode == self);
        f.pad(found.map_or("?", |(name, _)| name))
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = MODES.iter().find(|(known, _)| *known == name);
        let names = || MODES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found.map(|(_, mode)| *mode).ok_or_else(|| format!("no mode is called `{name}`; there are: {}", names()))
    }
}

/// What a share that is kept is one of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The entries of the full cache, in whatever type they are stored.
    #[default]
    Entries,
    /// The bytes that keys and values take in 16 bits, in the type that makes the most of them: what `--kv-budget 25%`
    /// is elsewhere.
    Bytes,
    /// The entries of a full cache of the whole text, of which a cache never holds more than this share, however far the
    /// text has come: what `--kv-budget 20000` is elsewhere.
    Held,
}

impl Basis {
    fn is_entries(&self) -> bool {
        *self == Basis::Entries
    }
}

/// One way to keep the cache.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Setting {
    /// A policy of the registry, as it was asked for.
    pub policy: String,
    /// Share that is kept; 1 is the full cache.
    pub keep: f32,
    /// What it is a share of. Results from before there was a choice do not say.
    #[serde(default, skip_serializing_if = "Basis::is_entries")]
    pub of: Basis,
    /// When the cache is compressed and asked.
    pub mode: Mode,
}

impl Setting {
    /// The full cache.
    pub fn full(mode: Mode) -> Self {
        Setting { policy: "full".into(), keep: 1.0, of: Basis::Entries, mode: mode.without_online() }
    }

    /// The budget for a text of so many tokens.
    pub fn budget(&self, tokens: usize) -> Budget {
        match self.of {
            _ if self.keep >= 1.0 => Budget::EntryFraction(1.0),
            Basis::Entries => Budget::EntryFraction(self.keep),
            Basis::Bytes => Budget::ByteFraction(self.keep),
            Basis::Held => Budget::Entries((f64::from(self.keep) * tokens as f64).round() as usize),
        }
    }

    /// Every policy at every share in every mode. What keeps everything is the full cache, whatever the policy:
    /// it comes once a way of asking, and online or not makes no difference to it.
    ///
    /// # Errors
    /// If the registry has no such policy, or a policy no such setting.
    pub fn all(
        policies: &[String],
        shares: &[(Basis, f32)],
        modes: &[Mode],
    ) -> Result<Vec<ParsedSetting>, PolicyError> {
        let policies = policies.iter().map(|asked| Ok((asked, chelsea_kv::policy(asked)?)));
        let policies: Vec<(&String, Arc<dyn Policy>)> = policies.collect::<Result<_, PolicyError>>()?;
        let mut settings: Vec<ParsedSetting> = Vec::new();
        let mut push = |setting: Setting, policy: Arc<dyn Policy>| {
            let alike = |other: &ParsedSetting| {
                // A policy has one specification, in however many ways it is asked for.
                other.made.spec() == policy.spec()
                    && Setting { policy: other.setting.policy.clone(), ..setting.clone() } == **other
            };
            if !settings.iter().any(alike) {
                settings.push(ParsedSetting { setting, made: policy });
            }
        };
        for &(of, keep) in shares {
            for (asked, policy) in &policies {
                for &mode in modes {
                    if keep >= 1.0 || policy.keeps_everything() {
                        push(Setting::full(mode), Arc::new(Full));
                    } else {
                        push(Setting { policy: (*asked).clone(), keep, of, mode }, policy.clone());
                    }
                }
            }
        }
        Ok(settings)
    }
}

/// A setting whose policy was made of its name, once.
#[derive(Debug, Clone)]
pub struct ParsedSetting {
    setting: Setting,
    made: Arc<dyn Policy>,
}

impl ParsedSetting {
    /// The policy.
    pub fn made_policy(&self) -> &Arc<dyn Policy> {
        &self.made
    }

    /// Whether it can be run at all: a policy that reads the text twice cannot compress while it reads.
    pub fn can_run(&self) -> bool {
        !self.setting.mode.online() || self.made.needs().repetition.is_none()
    }

    /// Tokens that are repeated at once, where the policy reads the text twice to compress it.
    pub fn repetition(&self) -> Option<usize> {
        self.made.needs().repetition.filter(|_| self.setting.keep < 1.0)
    }
}

impl Deref for ParsedSetting {
    type Target = Setting;

    fn deref(&self) -> &Setting {
        &self.setting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_answer_to_their_names() {
        for (name, mode) in MODES {
            assert_eq!(name.parse(), Ok(*mode));
            assert_eq!(serde_json::to_string(mode).unwrap(), format!("\"{name}\""));
        }
        assert!("twice".parse::<Mode>().unwrap_err().contains("aware-online"));
    }

    #[test]
    fn a_policy_comes_once_by_whatever_names_it_is_asked_for() {
        let default = chelsea_kv::policy("chelsea").unwrap().spec();
        let policies = ["chelsea".to_string(), default, "chelsea:lam=0".to_string()];
        let settings = Setting::all(&policies, &[(Basis::Entries, 0.25)], &[Mode::OneShot]).unwrap();
        assert_eq!(settings.iter().map(|s| s.policy.as_str()).collect::<Vec<_>>(), ["chelsea", "chelsea:lam=0"]);
    }

    #[test]
    fn a_policy_that_does_not_exist_is_refused() {
        let error = Setting::all(&["chelsee".into()], &[(Basis::Entries, 0.5)], &[Mode::OneShot]).unwrap_err();
        assert!(error.to_string().contains("chelsee"), "{error}");
    }

    #[test]
    fn a_policy_that_reads_twice_cannot_be_run_online() {
        let settings =
            Setting::all(&["kvzip".into()], &[(Basis::Entries, 0.5)], &[Mode::OneShot, Mode::Online]).unwrap();
        assert_eq!(settings.iter().map(ParsedSetting::can_run).collect::<Vec<_>>(), [true, false]);
        assert!(settings[0].repetition().is_some());
    }

    #[test]
    fn the_full_cache_comes_once_a_way_of_asking() {
        let policies = ["chelsea".to_string(), "streaming".to_string(), "full".to_string()];
        let shares = [(Basis::Entries, 1.0), (Basis::Bytes, 1.0), (Basis::Bytes, 0.25)];
        let settings = Setting::all(&policies, &shares, &[Mode::OneShot, Mode::Online, Mode::Aware]).unwrap();
        let full: Vec<_> = settings.iter().filter(|s| s.policy == "full").map(|s| s.mode).collect();
        assert_eq!(full, [Mode::OneShot, Mode::Aware]);
        assert_eq!(settings.len(), 2 + 2 * 3);
    }

    #[test]
    fn a_number_of_entries_survives_being_written_as_a_share() {
        for (held, tokens) in [(16_384, 100_000), (1, 3), (99_999, 100_000), (777, 1_000_000)] {
            let setting =
                Setting { keep: held as f32 / tokens as f32, of: Basis::Held, ..Setting::full(Mode::OneShot) };
            let line = serde_json::to_string(&setting).unwrap();
            let read = serde_json::from_str::<Setting>(&line).unwrap();
            assert_eq!(read.budget(tokens), Budget::Entries(held), "{line}");
        }
    }

    #[test]
    fn a_share_is_of_entries_unless_it_says_otherwise() {
        let old = r#"{"policy":"chelsea","keep":0.25,"mode":"one-shot"}"#;
        let entries: Setting = serde_json::from_str(old).unwrap();
        assert_eq!((entries.of, entries.budget(9)), (Basis::Entries, Budget::EntryFraction(0.25)));
        assert_eq!(serde_json::to_string(&entries).unwrap(), old);
        let bytes = Setting { of: Basis::Bytes, ..entries };
        assert_eq!(bytes.budget(9), Budget::ByteFraction(0.25));
        let line = serde_json::to_string(&bytes).unwrap();
        assert_eq!(serde_json::from_str::<Setting>(&line).unwrap(), bytes);
    }
}

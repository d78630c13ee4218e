//! One way to keep the cache, and when it is compressed and asked.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

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
}

/// Every mode with its name.
pub const MODES: &[(&str, Mode)] = &[
    ("one-shot", Mode::OneShot),
    ("online", Mode::Online),
    ("aware", Mode::Aware),
    ("aware-online", Mode::AwareOnline),
    ("turns", Mode::Turns),
    ("turns-online", Mode::TurnsOnline),
];

impl Mode {
    /// Whether the cache is compressed while reading.
    pub fn online(self) -> bool {
        matches!(self, Mode::Online | Mode::AwareOnline | Mode::TurnsOnline)
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
            Mode::Online => Mode::OneShot,
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

/// One way to keep the cache.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Setting {
    /// A policy of the registry, as it was asked for.
    pub policy: String,
    /// Share of the entries kept; 1 is the full cache.
    pub keep: f32,
    /// When the cache is compressed and asked.
    pub mode: Mode,
}

impl Setting {
    /// The full cache.
    pub fn full(mode: Mode) -> Self {
        Setting { policy: "full".into(), keep: 1.0, mode: mode.without_online() }
    }

    /// Every policy at every keep ratio in every mode. What keeps everything is the full cache, whatever the policy:
    /// it comes once a way of asking, and online or not makes no difference to it.
    pub fn all(policies: &[String], keeps: &[f32], modes: &[Mode]) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        let mut seen: Vec<Setting> = Vec::new();
        let mut push = |setting: Setting| {
            // A policy has one specification, in however many ways it is asked for.
            let spec = chelsea_kv::policy(&setting.policy).map_or_else(|_| setting.policy.clone(), |p| p.spec());
            let plain = Setting { policy: spec, ..setting };
            if !seen.contains(&plain) {
                seen.push(plain);
                settings.push(setting);
            }
        };
        for &keep in keeps {
            for policy in policies {
                for &mode in modes {
                    let full = keep >= 1.0 || chelsea_kv::policy(policy).is_ok_and(|p| p.keeps_everything());
                    push(if full { Setting::full(mode) } else { Setting { policy: policy.clone(), keep, mode } });
                }
            }
        }
        settings
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
        let settings = Setting::all(&policies, &[0.25], &[Mode::OneShot]);
        assert_eq!(settings.iter().map(|s| s.policy.as_str()).collect::<Vec<_>>(), ["chelsea", "chelsea:lam=0"]);
    }

    #[test]
    fn the_full_cache_comes_once_a_way_of_asking() {
        let policies = ["chelsea".to_string(), "streaming".to_string(), "full".to_string()];
        let settings = Setting::all(&policies, &[1.0, 0.25], &[Mode::OneShot, Mode::Online, Mode::Aware]);
        let full: Vec<_> = settings.iter().filter(|s| s.policy == "full").map(|s| s.mode).collect();
        assert_eq!(full, [Mode::OneShot, Mode::Aware]);
        assert_eq!(settings.len(), 2 + 2 * 3);
    }
}

//! Every policy by its name: the one list that the command, the help texts and the evaluation read.

use super::{Chelsea, ChelseaBest, ChelseaPlain, Full, KvZip, Policy, Random, Streaming};
use super::{d2o, expected_attention, h2o, keydiff, knorm, kvzip, lagkv, pool, pyramidkv, snapkv, tova};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// A request for a policy that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("no policy is called `{name}`; there are: {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names that exist.
        known: Vec<&'static str>,
    },
    /// A policy has no such setting.
    #[error("policy `{policy}` has no setting `{setting}`; it has: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    UnknownSetting {
        /// The policy.
        policy: &'static str,
        /// What was asked for.
        setting: String,
        /// Settings that exist.
        known: Vec<&'static str>,
    },
    /// A setting has a value it cannot have.
    #[error("`{value}` is no value for the setting `{setting}`: {expected}")]
    BadValue {
        /// The setting.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// Settings are written `name:key=value,key=value`.
    #[error("`{0}` is no setting: write name:key=value,key=value")]
    Unreadable(String),
}

/// A setting of a policy.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// What it is called.
    pub name: &'static str,
    /// What it is when nothing is said.
    pub default: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// A policy that can be asked for by name.
#[derive(Debug, Clone, Copy)]
pub struct PolicyInfo {
    /// What it is called.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Whether it reads the text a second time ([`super::Needs::repetition`]) and so cannot compress while
    /// reading.
    pub one_shot_only: bool,
    /// What can be set.
    pub settings: &'static [Setting],
    pub(super) make: fn(&Settings) -> Result<Arc<dyn Policy>, PolicyError>,
}

impl PolicyInfo {
    /// Makes the policy with these settings; those not named have their defaults.
    pub fn make(&self, settings: &Settings) -> Result<Arc<dyn Policy>, PolicyError> {
        let known = || self.settings.iter().map(|s| s.name);
        if let Some(setting) = settings.values.keys().find(|key| known().all(|name| name != **key)) {
            let (policy, setting) = (self.name, setting.clone());
            return Err(PolicyError::UnknownSetting { policy, setting, known: known().collect() });
        }
        (self.make)(settings)
    }
}

/// Values for a policy's settings, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, String>,
}

impl Settings {
    /// Sets `name` to `value`.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.values.insert(name.into(), value.into());
    }

    /// The value of `name`, or `default`; an error when `accept` refuses it.
    pub(super) fn get<T: FromStr>(
        &self,
        name: &'static str,
        default: T,
        expected: &'static str,
        accept: impl Fn(&T) -> bool,
    ) -> Result<T, PolicyError> {
        match self.values.get(name) {
            None => Ok(default),
            Some(value) => value.parse().ok().filter(accept).ok_or_else(|| PolicyError::BadValue {
                setting: name,
                value: value.clone(),
                expected,
            }),
        }
    }

    fn chunk(&self, default: usize) -> Result<usize, PolicyError> {
        self.get("chunk", default, "a number of entries from 2 to 65536", |c| (2..=65_536).contains(c))
    }
}

const CHUNK: Setting = Setting { name: "chunk", default: "256", about: "entries that are matched among themselves" };

const FRAC: Setting =
    Setting { name: "frac", default: "0.0625", about: "share of the entries that one round merges at most" };
const FLOOR: Setting = Setting { name: "floor", default: "0.05", about: "share of the average that every head keeps" };
const HCAP: Setting =
    Setting { name: "hcap", default: "1", about: "share of a head's entries that one round may merge" };
const LAM: Setting = Setting { name: "lam", default: "1", about: "weight of the distance of values in the cost" };

fn chelsea(s: &Settings) -> Result<Chelsea, PolicyError> {
    let default = Chelsea::default();
    Ok(Chelsea {
        chunk: s.chunk(default.chunk)?,
        round_share: s.get("frac", default.round_share, "above 0 and at most 1", |&x| x > 0.0 && x <= 1.0)?,
        floor: s.get("floor", default.floor, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
        hcap: s.get("hcap", default.hcap, "above 0 and at most 1", |&x| x > 0.0 && x <= 1.0)?,
        value_weight: s.get("lam", default.value_weight, "0 or more", |&x| x >= 0.0 && x.is_finite())?,
    })
}

/// All policies, the default first.
pub fn registry() -> &'static [PolicyInfo] {
    &[
        PolicyInfo {
            name: "chelsea",
            about: "cluster similar neighbours, one pool of merges over all layers and heads (default)",
            source: "after arXiv:2506.11418, with a query-weighted cost and a global budget",
            one_shot_only: false,
            settings: &[CHUNK, FRAC, FLOOR, HCAP, LAM],
            make: |s| Ok(Arc::new(chelsea(s)?)),
        },
        PolicyInfo {
            name: "chelsea-best",
            about: "keep what repeating the text needs, cluster the rest (a second pass, one-shot only)",
            source: "chelsea around the entries that KVzip (arXiv:2505.23416) scores best",
            one_shot_only: true,
            settings: &[
                Setting {
                    name: "exact",
                    default: "0.6",
                    about: "share of the budget for entries that stay as they are",
                },
                Setting { name: "repeat", default: "2048", about: "tokens that are repeated at once" },
                CHUNK,
                FRAC,
                FLOOR,
                HCAP,
                LAM,
            ],
            make: |s| {
                let exact = ChelseaBest::default().exact;
                Ok(Arc::new(ChelseaBest {
                    exact: s.get("exact", exact, "from 0 to 1", |x| (0.0..=1.0).contains(x))?,
                    score: KvZip::repeating(s, "repeat")?,
                    rest: chelsea(s)?,
                }))
            },
        },
        PolicyInfo {
            name: "chelsea-plain",
            about: "cluster by cosine of cached keys, every head to the same length",
            source: "Chelsea / CentroidKV, arXiv:2506.11418",
            one_shot_only: false,
            settings: &[CHUNK],
            make: |s| Ok(Arc::new(ChelseaPlain { chunk: s.chunk(ChelseaPlain::default().chunk)? })),
        },
        PolicyInfo {
            name: "full",
            about: "keep every entry",
            source: "the cache without compression",
            one_shot_only: false,
            settings: &[],
            make: |_| Ok(Arc::new(Full)),
        },
        PolicyInfo {
            name: "streaming",
            about: "keep the attention sinks and the most recent entries",
            source: "StreamingLLM, arXiv:2309.17453",
            one_shot_only: false,
            settings: &[],
            make: |_| Ok(Arc::new(Streaming)),
        },
        PolicyInfo {
            name: "random",
            about: "keep a random choice of entries",
            source: "the floor that every policy must beat",
            one_shot_only: false,
            settings: &[Setting { name: "seed", default: "0", about: "the same seed makes the same choices" }],
            make: |s| Ok(Arc::new(Random { seed: s.get("seed", 0, "a whole number", |_| true)? })),
        },
        pool::INFO,
        knorm::INFO,
        keydiff::INFO,
        lagkv::INFO,
        snapkv::INFO,
        pyramidkv::INFO,
        tova::INFO,
        h2o::INFO,
        d2o::INFO,
        expected_attention::INFO,
        kvzip::INFO,
    ]
}

/// Makes the policy that `spec` asks for: a name, and settings if any, as in `chelsea:floor=0,chunk=128`.
pub fn policy(spec: &str) -> Result<Arc<dyn Policy>, PolicyError> {
    let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
    let info = registry().iter().find(|info| info.name == name.trim()).ok_or_else(|| PolicyError::Unknown {
        name: name.trim().to_owned(),
        known: registry().iter().map(|info| info.name).collect(),
    })?;
    let mut settings = Settings::default();
    for part in rest.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| PolicyError::Unreadable(part.to_owned()))?;
        settings.set(key.trim(), value.trim());
    }
    info.make(&settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_answers_to_its_name() {
        for info in registry() {
            assert_eq!(policy(info.name).unwrap().name(), info.name);
            assert!(!info.about.is_empty() && !info.source.is_empty());
            assert_eq!(policy(info.name).unwrap().needs().repetition.is_some(), info.one_shot_only);
        }
    }

    #[test]
    fn stated_defaults_are_the_defaults() {
        for info in registry() {
            let mut settings = Settings::default();
            info.settings.iter().for_each(|s| settings.set(s.name, s.default));
            let (stated, silent) = (info.make(&settings).unwrap(), info.make(&Settings::default()).unwrap());
            assert_eq!(format!("{stated:?}"), format!("{silent:?}"));
        }
    }

    #[test]
    fn a_specification_is_read_back_as_it_is_written() {
        for info in registry() {
            let made = policy(info.name).unwrap();
            assert_eq!(format!("{made:?}"), format!("{:?}", policy(&made.spec()).unwrap()), "{}", made.spec());
        }
        for spec in [
            "snapkv:window=32,kernel=7,pool=max,heads=adaptive,floor=0.1",
            "h2o:recent=0,average=1",
            "tova:heads=pooled",
        ] {
            let made = policy(spec).unwrap();
            assert_eq!(format!("{made:?}"), format!("{:?}", policy(&made.spec()).unwrap()), "{}", made.spec());
        }
    }

    #[test]
    fn settings_are_read_and_checked() {
        let made = policy("chelsea: floor = 0, chunk=128").unwrap();
        let wanted = Chelsea { floor: 0.0, chunk: 128, ..Chelsea::default() };
        assert_eq!(format!("{made:?}"), format!("{wanted:?}"));
        for (spec, word) in [
            ("chelsee", "chelsea-plain"),
            ("chelsea:flor=0", "floor"),
            ("chelsea:floor=2", "from 0 to 1"),
            ("chelsea:chunk=1", "from 2"),
            ("chelsea:chunk", "key=value"),
            ("full:chunk=2", "none"),
            ("chelsea:frac=nan", "above 0"),
        ] {
            let error = policy(spec).unwrap_err().to_string();
            assert!(error.contains(word), "{spec}: {error}");
        }
    }
}

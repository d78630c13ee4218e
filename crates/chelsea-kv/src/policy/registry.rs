//! Policies by name: the list that the command, the help texts and the evaluation read, and that a program adds its own to.

use super::{Policy, chelsea, chelsea_best, chelsea_plain, full, kvzip, streaming};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
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
#[non_exhaustive]
pub struct Setting {
    /// What it is called.
    pub name: &'static str,
    /// What it is when nothing is said.
    pub default: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What it was called before: still read, never written.
    pub former: Option<&'static str>,
}

impl Setting {
    /// The setting `name`; `default` is read where nothing is said.
    pub const fn new(name: &'static str, default: &'static str, about: &'static str) -> Self {
        Setting { name, default, about, former: None }
    }

    /// The same, read by the name `former` too.
    pub const fn formerly(self, former: &'static str) -> Self {
        Setting { former: Some(former), ..self }
    }

    /// The same with another default.
    pub const fn with_default(self, default: &'static str) -> Self {
        Setting { default, ..self }
    }
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
    /// Makes it with these settings ([`Settings::get`] reads one). [`PolicyInfo::make`] checks their names before.
    pub make: fn(&Settings) -> Result<Arc<dyn Policy>, PolicyError>,
}

impl PolicyInfo {
    /// Makes the policy with these settings; those not named have their defaults.
    ///
    /// # Errors
    /// If there is no such setting, or it cannot have such a value.
    pub fn make(&self, settings: &Settings) -> Result<Arc<dyn Policy>, PolicyError> {
        let mut named = Settings::default();
        for (key, value) in &settings.values {
            if retired(self.name, key, value)? {
                continue;
            }
            let Some(setting) = self.settings.iter().find(|s| s.name == key || s.former == Some(key)) else {
                let known = self.settings.iter().map(|s| s.name).collect();
                return Err(PolicyError::UnknownSetting { policy: self.name, setting: key.clone(), known });
            };
            named.set(setting.name, value);
        }
        (self.make)(&named)
    }
}

/// Whether `setting` of `policy` is one that is gone, with the value that changed nothing: specifications of before, in
/// snapshots and in results, name it.
fn retired(policy: &str, setting: &str, value: &str) -> Result<bool, PolicyError> {
    if setting != "hcap" || !matches!(policy, "chelsea" | "chelsea-best") {
        return Ok(false);
    }
    match value.parse() {
        Ok(1.0) => Ok(true),
        _ => Err(PolicyError::BadValue {
            setting: "hcap",
            value: value.to_owned(),
            expected: "a limit on what one round merges in a head is no longer there; leave it out",
        }),
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

    /// The value of `name`, or `default`.
    ///
    /// # Errors
    /// If it does not parse or `accept` refuses it; `expected` says what would be accepted.
    pub fn get<T: FromStr>(
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

    pub(super) fn chunk(&self, default: usize) -> Result<usize, PolicyError> {
        self.get("chunk", default, "a number of entries from 2 to 65536", |c| (2..=65_536).contains(c))
    }
}

/// The policies of this crate, the default first, and those that were registered.
static REGISTRY: RwLock<Vec<PolicyInfo>> = RwLock::new(Vec::new());

const OWN: [PolicyInfo; 6] =
    [chelsea::INFO, chelsea_best::INFO, chelsea_plain::INFO, full::INFO, streaming::INFO, kvzip::INFO];

/// All policies: those of this crate, the default first, and then those [registered](register), in that order.
pub fn registry() -> Vec<PolicyInfo> {
    let more = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    OWN.iter().filter(|own| more.iter().all(|info| info.name != own.name)).chain(&*more).copied().collect()
}

/// Adds policies to the registry of this process, from where [`policy`] makes them and snapshots that were saved with them
/// are loaded: to be called when a program starts. One with the name of another takes its place.
pub fn register(policies: &[PolicyInfo]) {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    for info in policies {
        match registry.iter_mut().find(|other| other.name == info.name) {
            Some(other) => *other = *info,
            None => registry.push(*info),
        }
    }
}

/// Makes the policy that `spec` asks for: a name, and settings if any, as in `chelsea:floor=0,chunk=128`. It is to be
/// parsed once and carried as what it is from there.
///
/// # Errors
/// If no policy has that name, it has no such setting, or the setting cannot have that value.
pub fn policy(spec: &str) -> Result<Arc<dyn Policy>, PolicyError> {
    let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
    let registry = registry();
    let info = registry.iter().find(|info| info.name == name.trim()).ok_or_else(|| PolicyError::Unknown {
        name: name.trim().to_owned(),
        known: registry.iter().map(|info| info.name).collect(),
    })?;
    let mut settings = Settings::default();
    for part in rest.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| PolicyError::Unreadable(part.to_owned()))?;
        settings.set(key.trim(), value.trim());
    }
    info.make(&settings)
}

/// A specification with settings by the names they have today and without those that are gone, and else as it stands: so
/// that what was written down before is found again. What is not known stays.
pub fn current_spec(spec: &str) -> String {
    let Some((name, rest)) = spec.split_once(':') else { return spec.to_owned() };
    let registry = registry();
    let Some(info) = registry.iter().find(|info| info.name == name) else { return spec.to_owned() };
    let today = |part: &str| {
        let Some((key, value)) = part.split_once('=') else { return Some(part.to_owned()) };
        let setting = info.settings.iter().find(|s| s.former == Some(key));
        let kept = !retired(name, key, value).unwrap_or(false);
        kept.then(|| format!("{}={value}", setting.map_or(key, |s| s.name)))
    };
    format!("{name}:{}", rest.split(',').filter_map(today).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Chelsea;

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
        let exact = policy("chelsea:rounded=false").unwrap();
        assert_eq!(format!("{exact:?}"), format!("{:?}", policy(&exact.spec()).unwrap()));
    }

    #[test]
    fn specifications_of_before_are_read_and_written_anew() {
        let made = policy("chelsea:chunk=128,frac=0.1,floor=0.05,hcap=1,lam=0.5").unwrap();
        assert_eq!(made.spec(), "chelsea:chunk=128,round_share=0.1,floor=0.05,value_weight=0.5,recent=0.4");
        let best = policy("chelsea-best:exact=0.5,repeat=100,chunk=64,frac=0.25,floor=0,hcap=1.0,lam=0").unwrap();
        let rest = "chunk=64,round_share=0.25,floor=0,value_weight=0,recent=0.4";
        assert_eq!(best.spec(), format!("chelsea-best:exact=0.5,repeat=100,{rest}"));
        assert!(policy("chelsea:hcap=0.5").unwrap_err().to_string().contains("no longer"));
        assert_eq!(current_spec("chelsea:chunk=64,frac=0.1,hcap=1"), "chelsea:chunk=64,round_share=0.1");
        for spec in ["chelsea", "nobody:frac=1", "chelsea:hcap=0.5", "full:"] {
            assert_eq!(current_spec(spec), spec);
        }
        assert!(policy("kvzip:hcap=1").unwrap_err().to_string().contains("no setting"));
    }

    #[derive(Debug)]
    struct Other(f64);

    impl Policy for Other {
        fn name(&self) -> &'static str {
            "other"
        }

        fn spec(&self) -> String {
            format!("other:weight={}", self.0)
        }

        fn plan(&self, view: &crate::policy::View<'_>, _target: usize) -> Result<crate::policy::Plan, crate::PoolFull> {
            Ok(crate::policy::Plan::identity(view.heads.len()))
        }
    }

    #[test]
    fn a_policy_from_elsewhere_is_made_by_its_name_and_registered_once() {
        const WEIGHT: Setting = Setting::new("weight", "1", "means nothing").formerly("w");
        let info = PolicyInfo {
            name: "other",
            about: "keep everything",
            source: "this test",
            one_shot_only: false,
            settings: &[WEIGHT],
            make: |s| Ok(Arc::new(Other(s.get("weight", 1.0, "0 or more", |x| *x >= 0.0)?))),
        };
        register(&[info]);
        register(&[PolicyInfo { about: "keep every entry", ..info }]);
        let all = registry();
        let found: Vec<_> = all.iter().filter(|info| info.name == "other").map(|info| info.about).collect();
        assert_eq!((all[0].name, found), ("chelsea", vec!["keep every entry"]));
        assert_eq!(format!("{:?}", policy("other:w=2").unwrap()), "Other(2.0)");
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

//! The engines, their types of cache, and their settings.

/// An engine that Chelsea is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    #[value(name = "llama.cpp")]
    LlamaCpp,
    #[value(name = "ik_llama.cpp")]
    IkLlamaCpp,
    #[value(name = "openvino")]
    OpenVino,
}

/// How Chelsea is called in results.
pub const OWN: &str = "Chelsea";
/// Chelsea's caches: what they are called, and the share of the full cache's bytes, which 16 bits for all have. The
/// shares are what 8 and 4 bits with a scale for 32 numbers take (q8_0 and q4_0), and the default.
pub const OWN_CACHES: [(&str, Option<&str>); 4] =
    [("f16", None), ("53% of the bytes", Some("53%")), ("28% of the bytes", Some("28%")), (DEFAULT, Some("25%"))];
pub const DEFAULT: &str = "25% of the bytes";
/// The share of a full cache's bytes to which OpenVINO is to evict: Chelsea's default.
const EVICT_TO: f64 = 0.25;

/// What caches are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bits16,
    Bits8,
    Bits4,
    Evicted,
}

/// One type of cache of one peer: a row of the table.
#[derive(Debug)]
pub struct Contender {
    pub peer: Peer,
    pub cache: &'static str,
    /// Arguments of the peer's script that choose the cache.
    pub args: Vec<String>,
    /// Settings, by name, with their arguments.
    pub settings: Vec<(String, Vec<String>)>,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::LlamaCpp, Peer::IkLlamaCpp, Peer::OpenVino];

    pub fn name(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama.cpp",
            Peer::IkLlamaCpp => "ik_llama.cpp",
            Peer::OpenVino => "OpenVINO GenAI",
        }
    }

    /// What pip installs.
    pub fn package(self) -> &'static str {
        match self {
            Peer::LlamaCpp => super::super::PACKAGE,
            Peer::IkLlamaCpp => "ik-llama-cpp-python==0.1.5",
            Peer::OpenVino => "openvino-genai==2026.4.1.0",
        }
    }

    pub fn module(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama_cpp",
            Peer::IkLlamaCpp => "ik_llama_cpp",
            Peer::OpenVino => "openvino_genai",
        }
    }

    /// The folder of its Python environment; llama.cpp's is the one that `bench-peers` has without `--field`.
    pub fn folder(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "venv",
            Peer::IkLlamaCpp => "venv-ik",
            Peer::OpenVino => "venv-openvino",
        }
    }

    /// Its script in scripts/peers.
    pub fn script(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama_cpp_bench.py",
            Peer::IkLlamaCpp => "ik_llama_cpp_bench.py",
            Peer::OpenVino => "openvino_bench.py",
        }
    }
}

/// Every row, given how many bytes a token takes in a full cache of 16 bits.
pub fn contenders(bytes_a_token: f64) -> Vec<Contender> {
    let ggml = |peer, cache, args: &[&str]| Contender {
        peer,
        cache,
        args: strings(args),
        // Both take quantised values with flash attention only.
        settings: flash_and_repack(cache == "f16"),
    };
    let openvino = |cache, args: Vec<String>| Contender { peer: Peer::OpenVino, cache, args, settings: steps() };
    let evict_to = format!("{:.0}", EVICT_TO * bytes_a_token);
    vec![
        ggml(Peer::LlamaCpp, "f16", &["--cache", "f16"]),
        ggml(Peer::LlamaCpp, "q8_0, rotated", &["--cache", "q8_0"]),
        ggml(Peer::LlamaCpp, "q4_0, rotated", &["--cache", "q4_0"]),
        ggml(Peer::IkLlamaCpp, "f16", &["--cache", "f16"]),
        ggml(Peer::IkLlamaCpp, "q8_0, Hadamard", &["--cache", "q8_0", "--hadamard", "1"]),
        ggml(Peer::IkLlamaCpp, "q4_0, Hadamard", &["--cache", "q4_0", "--hadamard", "1"]),
        openvino("f16", strings(&["--cache", "f16"])),
        openvino("u8", strings(&["--cache", "u8"])),
        openvino("u8, evicted", strings(&["--cache", "u8", "--evict-to", &evict_to])),
    ]
}

/// What a peer's cache is compared as.
pub fn kind(cache: &str) -> Kind {
    match cache {
        _ if cache.ends_with("evicted") => Kind::Evicted,
        _ if cache.starts_with("q8_0") || cache.starts_with("u8") => Kind::Bits8,
        _ if cache.starts_with("q4_0") => Kind::Bits4,
        _ => Kind::Bits16,
    }
}

fn flash_and_repack(without_flash: bool) -> Vec<(String, Vec<String>)> {
    let on = |on| if on { "on" } else { "off" };
    let flag = |on| if on { "1" } else { "0" };
    let mut settings = Vec::new();
    for flash in [true, false] {
        for repack in [true, false] {
            if flash || without_flash {
                let args = strings(&["--flash", flag(flash), "--repack", flag(repack)]);
                settings.push((format!("flash {}, repack {}", on(flash), on(repack)), args));
            }
        }
    }
    settings
}

/// OpenVINO's own size of a step, and one that reads these prompts at once.
fn steps() -> Vec<(String, Vec<String>)> {
    ["256", "4096"].iter().map(|step| (format!("steps of {step}"), strings(&["--step", step]))).collect()
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_caches_run_with_flash_attention_only() {
        for contender in contenders(1000.0).iter().filter(|c| c.peer != Peer::OpenVino) {
            let without = contender.settings.iter().filter(|(name, _)| name.starts_with("flash off")).count();
            assert_eq!(without, if kind(contender.cache) == Kind::Bits16 { 2 } else { 0 }, "{contender:?}");
        }
    }

    #[test]
    fn openvino_evicts_to_the_bytes_of_the_default() {
        let all = contenders(23_040.0);
        let evicted: Vec<&Contender> = all.iter().filter(|c| kind(c.cache) == Kind::Evicted).collect();
        assert_eq!(evicted.len(), 1);
        assert_eq!(evicted[0].args[2..], ["--evict-to", "5760"]);
        assert!(OWN_CACHES.contains(&(DEFAULT, Some("25%"))));
    }

    #[test]
    fn caches_are_compared_with_their_like() {
        assert_eq!(kind("q8_0, Hadamard"), Kind::Bits8);
        assert_eq!(kind("u8"), Kind::Bits8);
        assert_eq!(kind("u8, evicted"), Kind::Evicted);
        assert_eq!(kind("q4_0, rotated"), Kind::Bits4);
        assert_eq!(kind("f16"), Kind::Bits16);
    }
}

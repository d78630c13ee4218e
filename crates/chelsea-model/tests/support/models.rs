//! The real models that tests run on, where they are.
//!
//! `CHELSEA_TEST_MODELS` names a folder with `smollm2.gguf` and `qwen2.5-coder-0.5b.gguf` (both required) and,
//! if wanted, `qwen2.5-coder-1.5b.gguf`. `cargo xtask test` fetches them and sets it.

use std::path::PathBuf;

/// Always there when the folder is.
pub const SMOLLM2: &str = "smollm2";
/// Always there when the folder is.
pub const QWEN_05B: &str = "qwen2.5-coder-0.5b";
/// May be missing.
pub const QWEN_15B: &str = "qwen2.5-coder-1.5b";

/// The file of a model; `None`, with a word on stderr, where the test has to be skipped.
pub fn path(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("CHELSEA_TEST_MODELS") else {
        eprintln!("SKIPPED: CHELSEA_TEST_MODELS is not set, nothing was checked against {name}");
        return None;
    };
    let path = PathBuf::from(folder).join(format!("{name}.gguf"));
    if !path.exists() {
        assert!(name == QWEN_15B, "CHELSEA_TEST_MODELS is set, but {} is not there", path.display());
        eprintln!("SKIPPED: {} is not there", path.display());
        return None;
    }
    Some(path)
}

//! The real models that tests run on, where they are.
//!
//! `CHELSEA_TEST_MODELS` names a folder with `smollm2.gguf`, `qwen2.5-coder-0.5b.gguf` and, for tests with `qwen_15b` in
//! their names, `qwen2.5-coder-1.5b.gguf`. `cargo xtask test` fetches the first two and sets the variable; it leaves
//! the tests of the third out where it was not fetched before.

use std::path::PathBuf;

/// 135M parameters.
pub const SMOLLM2: &str = "smollm2";
/// 0.5B parameters.
pub const QWEN_05B: &str = "qwen2.5-coder-0.5b";
/// 1.5B parameters: too large to download for every run of the tests.
pub const QWEN_15B: &str = "qwen2.5-coder-1.5b";

/// The file of a model. Tests that call this are ignored unless they are asked for, as `cargo xtask test` does.
pub fn path(name: &str) -> PathBuf {
    let path = folder("CHELSEA_TEST_MODELS", "with smollm2.gguf").join(format!("{name}.gguf"));
    assert!(
        path.is_file(),
        "CHELSEA_TEST_MODELS is set, but {} is not there: `cargo xtask fetch {name}`",
        path.display()
    );
    path
}

/// The folder of texts.
pub fn essays() -> PathBuf {
    folder("CHELSEA_TEST_ESSAYS", "of texts")
}

fn folder(variable: &str, holds: &str) -> PathBuf {
    let Some(folder) = std::env::var_os(variable) else {
        panic!("this test needs {variable}, a folder {holds}: `cargo xtask test` fetches it and sets the variable");
    };
    PathBuf::from(folder)
}

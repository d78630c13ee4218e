//! Compiles the kernels, the very files that GPUs get, with the emulator's header.

use std::path::{Path, PathBuf};

fn main() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chelsea-cuda/kernels");
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-changed=cuda");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&kernels)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    files.sort();
    let mut build = cc::Build::new();
    // As a GPU, which never contracts what is not asked for (NVRTC is told so, too).
    build.cpp(true).std("c++17").opt_level(1).flag("-ffp-contract=off").warnings(true).extra_warnings(false);
    build.flag("-Wno-unknown-pragmas").flag("-xc++");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        build.flag("-mf16c");
    }
    let sanitized = std::env::var_os("CARGO_FEATURE_SANITIZE").is_some();
    if sanitized {
        build.flag("-fsanitize=address,undefined").flag("-fno-omit-frame-pointer").flag("-g");
    }
    build
        .include("cuda")
        .include(&kernels)
        .file("cuda/emulator.cpp")
        .file("cuda/fragments.cpp")
        .file("cuda/probe.cu")
        .files(&files);
    // Kernels are known by the table that their files fill before `main`; nothing else names them.
    build.link_lib_modifier("+whole-archive").compile("chelsea_kernels");
    if sanitized {
        // Behind the kernels, which call it. Rust's linker leaves out what `-fsanitize` would add.
        println!("cargo:rustc-link-lib=dylib=asan");
        println!("cargo:rustc-link-lib=dylib=ubsan");
    }
}

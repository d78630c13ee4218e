#!/bin/sh
# Runs the tests of all kernels in the emulator with the address and undefined behaviour sanitizers, and sees that a write
# behind its memory is found. Needs GCC.
set -eu
cd "$(dirname "$0")/../.."
# What a test process holds at its end is not looked for: the test harness keeps some.
export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=halt_on_error=1 CXX="${CXX:-g++}"
set -- --package chelsea-emulator --features sanitize
cargo test "$@"
if cargo test "$@" --test instructions -- --ignored >target/sanitized.txt 2>&1; then
    echo "a write behind its memory was not found" >&2
    exit 1
fi
grep -q 'AddressSanitizer: heap-buffer-overflow' target/sanitized.txt
grep -q 'probe.cu' target/sanitized.txt
echo "a write behind its memory was found, with its line"

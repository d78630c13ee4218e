//! Stands in where the instructions are not known: nothing but `available` can ever be called.

#![allow(unsafe_code)]

pub(crate) fn available() -> bool {
    false
}

pub(crate) unsafe fn configure() {
    unreachable!("no matrix instructions");
}

pub(crate) unsafe fn release() {
    unreachable!("no matrix instructions");
}

pub(crate) unsafe fn multiply(_: [*const u8; 2], _: [*const u8; 2], _: usize, _: [*mut f32; 4], _: usize, _: bool) {
    unreachable!("no matrix instructions");
}

pub(crate) unsafe fn multiply_split(
    _: [*const u8; 2],
    _: [*const u8; 2],
    _: usize,
    _: [*mut f32; 4],
    _: usize,
    _: bool,
) {
    unreachable!("no matrix instructions");
}

pub(crate) unsafe fn multiply_left_split(
    _: [*const u8; 2],
    _: [*const u8; 2],
    _: usize,
    _: [*mut f32; 4],
    _: usize,
    _: bool,
) {
    unreachable!("no matrix instructions");
}

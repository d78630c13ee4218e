//! Small random models, written as GGUF and as safetensors, and a forward pass by definition to hold the
//! crate's against. Nothing here uses the crate under test.

#![allow(dead_code)]

pub mod gguf_writer;
pub mod naive;
pub mod tiny;

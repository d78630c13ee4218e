//! Bytes to logits: GGUF and safetensors, tokenizers, chat templates, architectures.

pub mod gguf;

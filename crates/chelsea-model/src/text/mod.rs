//! Text to token ids and back, and conversations to text.

pub mod chat;
pub mod tokenizer;

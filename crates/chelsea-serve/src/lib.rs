//! An HTTP server over clustered caches, behind the interfaces that clients speak already.
//!
//! A request takes this way: [`guard`] checks who asks, a module of [`openai`] or [`anthropic`] turns the body into a
//! [`Request`](chelsea_engine::scheduler::Request) (its prompt by [`prompt`], its settings by [`fields`]), [`engine`] hands
//! it to the thread that computes, and what the scheduler tells comes back as events, which are written as one answer or
//! as a stream. Nothing here computes, and nothing of a prompt or an answer is logged.

pub mod answer;
pub mod anthropic;
pub mod cut;
pub mod documents;
pub mod engine;
mod error;
pub mod fields;
pub mod files;
mod foreign;
pub mod form;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod guard;
mod live;
mod loads;
mod metrics;
pub mod mounts;
pub mod openai;
mod openapi;
mod pace;
mod page;
pub mod prompt;
pub mod reply;
mod router;
mod settings;
pub mod tools;
pub mod transfer;
mod unread;

pub use engine::Engine;
pub use error::{ApiError, Style};
pub use files::{FileLimits, Files};
pub use mounts::{Mount, Mounts};
pub use pace::{read_rate, step_for};
pub use router::{router, serve};
pub use settings::{Serving, Settings};
pub use transfer::TransferOptions;

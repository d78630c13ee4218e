//! Which prefixes lie in checkpoints, told to routers as vLLM tells it: batches in MessagePack over a ZeroMQ socket that
//! anybody may listen to. What is told are the tokens themselves of prompts that came by gRPC without a salt of their own, so
//! the port has to be as private as these are; it may also be left closed.
//!
//! The scheduler's thread tells of checkpoints over a channel; a task of its own turns them into blocks and publishes. To
//! whom connects, everything that is there is told anew, since sockets of this kind keep nothing for those who come late.

use super::KEY;
use super::blocks::{Blocks, Change};
use chelsea_engine::scheduler::ShelfWatcher;
use futures_util::StreamExt as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Instant;
use zeromq::{PubSocket, Socket as _, SocketEvent, SocketSend as _, ZmqError, ZmqMessage};

/// Where it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The socket, such as `tcp://127.0.0.1:5557`.
    pub endpoint: String,
    /// What every message begins with.
    pub topic: String,
}

/// What happened to a checkpoint.
enum News {
    Kept(Vec<Arc<[u32]>>),
    GaveUp(Vec<Arc<[u32]>>),
}

/// Hears of checkpoints from the scheduler.
struct Watcher(mpsc::UnboundedSender<News>);

impl ShelfWatcher for Watcher {
    fn kept(&mut self, key: u64, pieces: &[Arc<[u32]>]) {
        // Those of others are of no use to requests that a router sends.
        if key == KEY {
            let _ended = self.0.send(News::Kept(pieces.to_vec()));
        }
    }

    fn gave_up(&mut self, key: u64, pieces: &[Arc<[u32]>]) {
        if key == KEY {
            let _ended = self.0.send(News::GaveUp(pieces.to_vec()));
        }
    }
}

/// Publishes what it hears, for as long as it lives.
pub struct Announcer {
    socket: PubSocket,
    news: mpsc::UnboundedReceiver<News>,
    blocks: Blocks,
    topic: String,
    sequence: u64,
}

/// The topic that vLLM publishes under where nobody chose another.
const TOPIC: &str = "kv-events";

impl Announcer {
    /// Opens the socket; port 0 takes a free one. The watcher is for [`Scheduler::watch_shelf`].
    ///
    /// [`Scheduler::watch_shelf`]: chelsea_engine::Scheduler::watch_shelf
    ///
    /// # Errors
    /// If the port is taken.
    pub async fn open(host: IpAddr, port: u16) -> Result<(Announcer, Announced, Box<dyn ShelfWatcher>), ZmqError> {
        let mut socket = PubSocket::new();
        let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        let bound = socket.bind(&format!("tcp://{host}:{port}")).await?;
        let announced = Announced { endpoint: bound.to_string(), topic: TOPIC.into() };
        let (sender, news) = mpsc::unbounded_channel();
        let (topic, blocks) = (announced.topic.clone(), Blocks::default());
        Ok((Announcer { socket, news, blocks, topic, sequence: 0 }, announced, Box::new(Watcher(sender))))
    }

    /// Publishes until the scheduler has ended.
    pub async fn run(mut self) {
        /// From a connection to its subscription, which comes after it.
        const SETTLES: Duration = Duration::from_millis(250);
        let mut connections = self.socket.monitor();
        // When those that connected since will have subscribed.
        let mut settled: Option<Instant> = None;
        loop {
            let settles = async move {
                match settled {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = self.news.recv() => {
                    let change = match news {
                        None => return,
                        Some(News::Kept(pieces)) => self.blocks.keep(&pieces),
                        Some(News::GaveUp(pieces)) => self.blocks.give_up(&pieces),
                    };
                    if let Some(change) = change {
                        self.publish(&[change]).await;
                    }
                }
                Some(event) = connections.next() => {
                    if matches!(event, SocketEvent::Accepted(..)) {
                        settled = Some(Instant::now() + SETTLES);
                    }
                }
                // Once for all of them: news go on meanwhile.
                () = settles => {
                    settled = None;
                    let all = self.blocks.all();
                    if !all.is_empty() {
                        self.publish(&all).await;
                    }
                }
            }
        }
    }

    async fn publish(&mut self, changes: &[Change]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let mut message = ZmqMessage::from(self.topic.as_str());
        message.push_back(self.sequence.to_be_bytes().to_vec().into());
        message.push_back(encode(now, changes).into());
        self.sequence += 1;
        if let Err(error) = self.socket.send(message).await {
            tracing::warn!("routers were not told of checkpoints: {error}");
        }
    }
}

/// A batch: `[time, events, rank]`, with each event a row that begins with its name.
fn encode(time: f64, changes: &[Change]) -> Vec<u8> {
    encode_into(time, changes).unwrap_or_else(|never: std::io::Error| {
        // Memory takes everything.
        tracing::error!("events were not encoded: {never}");
        Vec::new()
    })
}

fn encode_into(time: f64, changes: &[Change]) -> std::io::Result<Vec<u8>> {
    use rmp::encode::{write_array_len, write_f64, write_nil, write_str, write_uint};
    let mut out = Vec::new();
    let list = |out: &mut Vec<u8>, numbers: &mut dyn ExactSizeIterator<Item = u64>| -> std::io::Result<()> {
        write_array_len(out, numbers.len() as u32)?;
        for number in numbers {
            write_uint(out, number)?;
        }
        Ok(())
    };
    write_array_len(&mut out, 3)?;
    write_f64(&mut out, time)?;
    write_array_len(&mut out, changes.len() as u32)?;
    for change in changes {
        match change {
            Change::Stored { names, parent, tokens } => {
                // Name, blocks, the one before, tokens, tokens of a block, adapter, and where it lies.
                write_array_len(&mut out, 7)?;
                write_str(&mut out, "BlockStored")?;
                list(&mut out, &mut names.iter().copied())?;
                match parent {
                    None => write_nil(&mut out)?,
                    Some(parent) => write_uint(&mut out, *parent).map(drop)?,
                }
                list(&mut out, &mut tokens.iter().map(|&token| token.into()))?;
                write_uint(&mut out, super::BLOCK as u64)?;
                write_nil(&mut out)?;
                write_str(&mut out, "GPU")?;
            }
            Change::Removed { names } => {
                write_array_len(&mut out, 3)?;
                write_str(&mut out, "BlockRemoved")?;
                list(&mut out, &mut names.iter().copied())?;
                write_str(&mut out, "GPU")?;
            }
        }
    }
    write_uint(&mut out, 0)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_what_the_format_says() {
        let changes = [
            Change::Stored { names: vec![1, 300], parent: None, tokens: vec![7; 2] },
            Change::Stored { names: vec![2], parent: Some(300), tokens: vec![] },
            Change::Removed { names: vec![300] },
        ];
        let mut expected = vec![0x93, 0xcb];
        expected.extend(1.5f64.to_be_bytes());
        expected.push(0x93);
        expected.extend(
            [&[0x97, 0xab][..], b"BlockStored", &[0x92, 1, 0xcd, 1, 44, 0xc0, 0x92, 7, 7, 16, 0xc0, 0xa3], b"GPU"]
                .concat(),
        );
        expected.extend(
            [&[0x97, 0xab][..], b"BlockStored", &[0x91, 2, 0xcd, 1, 44, 0x90, 16, 0xc0, 0xa3], b"GPU"].concat(),
        );
        expected.extend([&[0x93, 0xac][..], b"BlockRemoved", &[0x91, 0xcd, 1, 44, 0xa3], b"GPU"].concat());
        expected.push(0);
        assert_eq!(encode(1.5, &changes), expected);
    }
}

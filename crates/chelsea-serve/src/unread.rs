//! Requests that are answered before they were read.
//!
//! Who may not ask, or asks for what is not there, is answered at once. Many clients send all of their request before they
//! look for an answer; were the connection closed meanwhile, the system would throw the answer away with what arrived. So
//! what is left of a request is taken in and dropped beside the answer, within limits, and the client can go on with its
//! connection.

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;

/// What is taken in at most: whoever has more to send than this has to do without the answer.
const MOST: usize = 256 << 20;
/// For how long at most.
const LONGEST: Duration = Duration::from_secs(10);

/// Takes in what a request's answer leaves unread.
pub(crate) async fn take_in(request: Request, next: Next) -> Response {
    // Who waits to be told to go on has sent nothing yet, and is answered instead.
    let waits = request.headers().contains_key(header::EXPECT);
    let body = |body: Body| Body::from_stream(Reading { body: Some(body.into_data_stream()), waits });
    next.run(request.map(body)).await
}

/// The body of a request while somebody reads it.
struct Reading {
    /// None once it was read to its end.
    body: Option<BodyDataStream>,
    waits: bool,
}

impl Stream for Reading {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = std::task::ready!(body.poll_next_unpin(context));
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(next)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !self.waits && !body.is_end_stream()) else { return };
        // None if the server has ended.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LONGEST, drop_all(body)));
        }
    }
}

async fn drop_all(mut body: BodyDataStream) {
    let mut left = MOST;
    while let Some(Ok(bytes)) = body.next().await {
        let Some(less) = left.checked_sub(bytes.len()) else { return };
        left = less;
    }
}

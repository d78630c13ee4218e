//! What is answered over gRPC when a request cannot be.

use crate::ApiError;
use tonic::{Code, Status};

/// The same error as HTTP would tell. What another worker may be able to answer is `UNAVAILABLE`.
pub(super) fn status(error: ApiError) -> Status {
    let code = match error.status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 => Code::DeadlineExceeded,
        // Its queue is full or it is ending: routers ask another one.
        429 | 503 => Code::Unavailable,
        501 => Code::Unimplemented,
        code if code >= 500 => Code::Internal,
        _ => Code::InvalidArgument,
    };
    Status::new(code, error.message)
}

/// A field that is not honoured.
pub(super) fn refused(field: &str, why: &str) -> Status {
    Status::invalid_argument(format!("`{field}` {why}"))
}

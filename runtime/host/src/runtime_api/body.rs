//! Reads request bodies with a cap.
//!
//! A body over its cap is read on for a while and thrown away: a client that is still sending would
//! otherwise find its connection reset, and never read why.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::DRAINED_BYTES_MAX;

/// A whole body, and the trailers of a chunked one.
#[derive(Debug)]
pub(super) struct WholeBody {
    pub(super) bytes: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// Why there is no whole body.
#[derive(Debug)]
pub(super) enum BodyError {
    /// It is over the cap; `bytes` of it were announced or seen.
    TooLarge { bytes: u64, drained: bool },
    /// The connection ended in the middle of it.
    Truncated,
}

/// Reads the whole of `body`, at most `limit` bytes.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<WholeBody, BodyError> {
    if let Some(announced) = body.size_hint().exact()
        && announced > limit as u64
    {
        let drained = drain(body, 0).await.is_some();
        return Err(BodyError::TooLarge { bytes: announced, drained });
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Truncated)?;
        match frame.into_data() {
            Ok(data) => {
                let seen = first.len() + rest.len() + data.len();
                if seen > limit {
                    let total = drain(body, seen).await;
                    let bytes = total.unwrap_or(DRAINED_BYTES_MAX) as u64;
                    return Err(BodyError::TooLarge { bytes, drained: total.is_some() });
                }
                if first.is_empty() {
                    first = data;
                } else {
                    rest.extend_from_slice(&data);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    // Most bodies are one frame, and then nothing is copied.
    let bytes = if rest.is_empty() {
        first
    } else {
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        whole.freeze()
    };
    Ok(WholeBody { bytes, trailers })
}

/// Reads `body` to its end and keeps nothing. Returns its size, `seen` bytes included; none if it goes
/// on for too long or breaks off, and then the connection is of no more use.
pub(super) async fn drain(mut body: Incoming, mut seen: usize) -> Option<usize> {
    while let Some(frame) = body.frame().await {
        seen += frame.ok()?.data_ref().map_or(0, Bytes::len);
        if seen > DRAINED_BYTES_MAX {
            return None;
        }
    }
    Some(seen)
}

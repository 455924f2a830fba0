//! A body of any length that takes no memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// So many bytes of `x`, handed out in chunks that all share one block.
#[derive(Debug)]
pub(crate) struct Fill {
    left: u64,
    length_known: bool,
}

impl Fill {
    /// `len` bytes whose number goes into `Content-Length`.
    pub(crate) fn sized(len: u64) -> Self {
        Self { left: len, length_known: true }
    }

    /// `len` bytes that are sent chunked.
    pub(crate) fn chunked(len: u64) -> Self {
        Self { left: len, length_known: false }
    }
}

impl Body for Fill {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let len = self.left.min(BLOCK.len() as u64);
        self.left -= len;
        let chunk = Bytes::from_static(&BLOCK[..len as usize]);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    // An unsized body must not say that it is over before it is asked: hyper would send
    // `Content-Length: 0` for an empty one.
    fn is_end_stream(&self) -> bool {
        self.length_known && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.length_known { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

/// One block for all bodies of the process; 16 KiB is what a TLS record holds.
static BLOCK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

#[cfg(test)]
mod tests {
    use http_body::Body;
    use http_body_util::BodyExt;

    use super::{BLOCK, Fill};

    #[tokio::test]
    async fn hands_out_exactly_its_length_in_bounded_chunks() {
        let mut body = Fill::sized(40_000);
        let mut chunks = Vec::new();
        while let Some(frame) = body.frame().await {
            chunks.push(frame.unwrap().into_data().unwrap().len());
        }
        assert_eq!(chunks, [16_384, 16_384, 7_232]);
    }

    #[tokio::test]
    async fn chunks_share_one_block() {
        let mut body = Fill::sized(u64::MAX);
        for _ in 0..2 {
            let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(chunk.as_ptr(), BLOCK.as_ptr());
        }
    }

    #[test]
    fn only_a_sized_one_tells_its_length() {
        assert_eq!(Fill::sized(5).size_hint().exact(), Some(5));
        assert_eq!(Fill::chunked(5).size_hint().exact(), None);
        assert!(Fill::sized(0).is_end_stream());
        assert!(!Fill::chunked(0).is_end_stream());
    }
}

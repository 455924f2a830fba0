//! A request's body that can be sent from its beginning again, while little of it has gone.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bartizan_net::BoxError;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// A body, and what has been taken of it so far.
///
/// A backend may refuse a request that it has not looked at after some of its body has gone. HAProxy
/// repeats what fits into its buffer of 16 KiB, and so much is kept here.
#[derive(Debug)]
pub(crate) struct Kept<B> {
    body: B,
    ended: bool,
    // To be sent before what is left of the body.
    again: VecDeque<Bytes>,
    taken: Vec<Bytes>,
    size: usize,
    // Whether `taken` is all that was taken.
    whole: bool,
}

impl<B> Kept<B> {
    pub(crate) fn new(body: B) -> Self {
        let (again, taken) = (VecDeque::new(), Vec::new());
        Self { body, ended: false, again, taken, size: 0, whole: true }
    }

    /// The body as it was at the beginning; `None` if too much of it has gone.
    pub(crate) fn rewound(mut self) -> Option<Self> {
        if !self.whole {
            return None;
        }
        for bytes in self.taken.drain(..).rev() {
            self.again.push_front(bytes);
        }
        self.size = 0;
        Some(self)
    }

    /// The body, if nothing was taken of it.
    pub(crate) fn untouched(self) -> Result<B, Self> {
        let untouched = self.whole && self.taken.is_empty() && self.again.is_empty();
        if untouched && !self.ended { Ok(self.body) } else { Err(self) }
    }

    /// It will not be sent again.
    pub(crate) fn forget(&mut self) {
        self.whole = false;
        self.taken = Vec::new();
    }

    fn keep(&mut self, bytes: &Bytes) {
        self.size += bytes.len();
        if self.size > MOST_KEPT {
            self.forget();
        }
        if self.whole {
            self.taken.push(bytes.clone());
        }
    }
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Kept<B> {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(bytes) = self.again.pop_front() {
            self.keep(&bytes);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                self.forget();
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(None) => {
                self.ended = true;
                return Poll::Ready(None);
            }
        };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                let bytes = data.copy_to_bytes(data.remaining());
                self.keep(&bytes);
                Frame::data(bytes)
            }
            Err(trailers) => {
                self.forget();
                match trailers.into_trailers() {
                    Ok(trailers) => Frame::trailers(trailers),
                    // There is no third kind yet.
                    Err(_) => Frame::data(Bytes::new()),
                }
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.again.is_empty() && (self.ended || self.body.is_end_stream())
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let again: u64 = self.again.iter().map(|bytes| bytes.len() as u64).sum();
        let left = if self.ended { SizeHint::with_exact(0) } else { self.body.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower().saturating_add(again));
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}

/// HAProxy's `tune.bufsize`.
const MOST_KEPT: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::Full;

    use super::*;

    async fn take(kept: &mut Kept<Full<Bytes>>) -> Option<Bytes> {
        poll_fn(|cx| kept.poll_frame(cx)).await.map(|frame| frame.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn what_has_gone_comes_again_and_then_the_rest() {
        let mut kept = Kept::new(Full::from("body"));
        for _ in 0..3 {
            assert_eq!(kept.size_hint().exact(), Some(4));
            assert!(!kept.is_end_stream());
            assert_eq!(take(&mut kept).await.unwrap(), "body");
            assert_eq!(take(&mut kept).await, None);
            assert!(kept.is_end_stream());
            kept = kept.rewound().unwrap();
        }
        assert!(kept.untouched().is_err());
        assert!(Kept::new(Full::<Bytes>::from("body")).untouched().is_ok());
    }

    #[tokio::test]
    async fn too_much_does_not_come_again() {
        for (size, again) in [(MOST_KEPT, true), (MOST_KEPT + 1, false)] {
            let mut kept = Kept::new(Full::from(vec![0; size]));
            assert_eq!(take(&mut kept).await.unwrap().len(), size);
            assert_eq!(kept.rewound().is_some(), again, "{size}");
        }
    }
}

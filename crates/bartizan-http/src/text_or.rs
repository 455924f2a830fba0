//! Answers of our own in place of a service's.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A response's body: a service's, or a short text in its place.
    #[derive(Debug)]
    pub struct TextOr<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Service { #[pin] body: B },
        Text { text: Bytes },
    }
}

impl<B> TextOr<B> {
    /// The body that a service has answered with.
    pub(crate) fn service(body: B) -> Self {
        Self { kind: Kind::Service { body } }
    }

    /// A whole answer that says no more than `status`. The request was one for the `head` alone.
    pub(crate) fn answer(status: StatusCode, head: bool) -> Response<Self> {
        let reason = status.canonical_reason().unwrap_or_default();
        // hyper leaves the body of an answer to HEAD out over HTTP/1.1, but not over HTTP/2.
        let text =
            if head { Bytes::new() } else { format!("{} {reason}\n", status.as_u16()).into() };
        let mut response = Response::new(Self { kind: Kind::Text { text } });
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

impl<B: Body<Data = Bytes>> Body for TextOr<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Service { body } => body.poll_frame(cx),
            KindProj::Text { text } => {
                let text = std::mem::take(text);
                Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Service { body } => body.is_end_stream(),
            Kind::Text { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Service { body } => body.size_hint(),
            Kind::Text { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}

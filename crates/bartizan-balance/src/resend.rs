//! Which requests may be sent twice.

use bartizan_net::Conn;
use http::{Method, Request};
use http_body::Body;

/// Something that [`Balance`](crate::Balance) can be called with.
pub trait Resend: Sized {
    /// A copy to send to another backend, should the first one take this and answer nothing.
    ///
    /// `None` when doing it twice might not be the same as doing it once.
    fn spare(&self) -> Option<Self>;
}

/// A connection's bytes cannot be sent twice.
impl<IO> Resend for Conn<IO> {
    fn spare(&self) -> Option<Self> {
        None
    }
}

/// GET, HEAD and OPTIONS without a body are safe to repeat (RFC 9110 §9.2.1).
///
/// The body's default must be the empty one.
impl<B: Body + Default> Resend for Request<B> {
    fn spare(&self) -> Option<Self> {
        let safe = matches!(*self.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if !safe || !self.body().is_end_stream() {
            return None;
        }
        let mut copy = Self::new(B::default());
        *copy.method_mut() = self.method().clone();
        *copy.uri_mut() = self.uri().clone();
        *copy.version_mut() = self.version();
        *copy.headers_mut() = self.headers().clone();
        *copy.extensions_mut() = self.extensions().clone();
        Some(copy)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn only_safe_requests_without_a_body_have_a_spare() {
        for (method, body, spare) in [
            ("GET", "", true),
            ("HEAD", "", true),
            ("OPTIONS", "", true),
            ("GET", "x", false),
            ("POST", "", false),
            ("PUT", "", false),
            ("DELETE", "", false),
        ] {
            let request = Request::builder().method(method).uri("/a?b").header("x", "y");
            let request = request.body(Full::new(body.as_bytes())).unwrap();
            let copy = request.spare();
            assert_eq!(copy.is_some(), spare, "{method} {body:?}");
            if let Some(copy) = copy {
                assert_eq!((copy.method(), copy.uri()), (request.method(), request.uri()));
                assert_eq!(copy.headers(), request.headers());
            }
        }
    }
}

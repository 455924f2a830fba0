//! Which requests may be sent twice.

use std::convert::Infallible;
use std::io::Write;

use bartizan_net::Conn;
use http::header::{HeaderName, HeaderValue};
use http::{Extensions, Method, Request, Uri, Version};
use http_body::Body;

/// Something that [`Balance`](crate::Balance) can be called with.
pub trait Resend: Sized {
    /// What is kept to make a copy from.
    type Spare;

    /// What a copy can be made of, to send to another backend should the first one take this and
    /// answer nothing.
    ///
    /// `None` when doing it twice might not be the same as doing it once.
    fn spare(&self) -> Option<Self::Spare>;

    /// The copy.
    fn restore(spare: Self::Spare) -> Option<Self>;
}

/// A connection's bytes cannot be sent twice.
impl<IO> Resend for Conn<IO> {
    type Spare = Infallible;

    fn spare(&self) -> Option<Infallible> {
        None
    }

    fn restore(spare: Infallible) -> Option<Self> {
        match spare {}
    }
}

/// GET, HEAD and OPTIONS without a body are safe to repeat (RFC 9110 §9.2.1).
///
/// The body's default must be the empty one.
impl<B: Body + Default> Resend for Request<B> {
    type Spare = SpareRequest;

    fn spare(&self) -> Option<SpareRequest> {
        let safe = matches!(*self.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        (safe && self.body().is_end_stream()).then(|| SpareRequest::new(self))
    }

    fn restore(spare: SpareRequest) -> Option<Self> {
        spare.into_request()
    }
}

/// The head of a request, in one piece of memory.
///
/// A clone of the header map would be made of shared references into the server's read buffer. As
/// long as they live, the buffer cannot be used again, and each request would need a new one.
#[derive(Debug)]
pub struct SpareRequest {
    method: Method,
    version: Version,
    extensions: Extensions,
    uri_len: usize,
    // The target, then for each field: lengths of name and value, whether it is sensitive, both.
    text: Vec<u8>,
}

impl SpareRequest {
    fn new<B>(request: &Request<B>) -> Self {
        let mut text = Vec::with_capacity(TYPICAL_HEAD);
        // Writing to a vector does not fail.
        let _ = write!(text, "{}", request.uri());
        let uri_len = text.len();
        for (name, value) in request.headers() {
            text.extend_from_slice(&name.as_str().len().to_ne_bytes());
            text.extend_from_slice(&value.len().to_ne_bytes());
            text.push(u8::from(value.is_sensitive()));
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(value.as_bytes());
        }
        Self {
            method: request.method().clone(),
            version: request.version(),
            extensions: request.extensions().clone(),
            uri_len,
            text,
        }
    }

    fn into_request<B: Default>(self) -> Option<Request<B>> {
        let (uri, mut rest) = self.text.split_at_checked(self.uri_len)?;
        let mut request = Request::new(B::default());
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions;
        *request.uri_mut() = Uri::try_from(uri).ok()?;
        while !rest.is_empty() {
            let name_len = usize::from_ne_bytes(*take(&mut rest)?);
            let value_len = usize::from_ne_bytes(*take(&mut rest)?);
            let [sensitive] = *take(&mut rest)?;
            let (name, after) = rest.split_at_checked(name_len)?;
            let (value, after) = after.split_at_checked(value_len)?;
            rest = after;
            let mut value = HeaderValue::from_bytes(value).ok()?;
            value.set_sensitive(sensitive != 0);
            request.headers_mut().append(HeaderName::from_bytes(name).ok()?, value);
        }
        Some(request)
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

const TYPICAL_HEAD: usize = 768;

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
            let request = Request::builder().method(method).uri("/a?b");
            let request = request.body(Full::new(body.as_bytes())).unwrap();
            assert_eq!(request.spare().is_some(), spare, "{method} {body:?}");
        }
    }

    #[test]
    fn a_copy_is_like_the_request() {
        for uri in ["/a?b=c", "https://user@example.com:8443/a?b", "*", "http://example.com"] {
            let mut secret = HeaderValue::from_static("token");
            secret.set_sensitive(true);
            let mut request = Request::builder()
                .uri(uri)
                .version(Version::HTTP_2)
                .header("host", "example.com")
                .header("x-several", "one")
                .header("x-several", "two")
                .header("x-empty", "")
                .header("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap())
                .header("authorization", secret)
                .body(Full::new(&b""[..]))
                .unwrap();
            request.extensions_mut().insert("kept");
            let copy = Request::<Full<&[u8]>>::restore(request.spare().unwrap()).unwrap();
            assert_eq!((copy.method(), copy.uri()), (request.method(), request.uri()));
            assert_eq!((copy.version(), copy.headers()), (Version::HTTP_2, request.headers()));
            assert!(copy.headers()["authorization"].is_sensitive());
            assert!(!copy.headers()["host"].is_sensitive());
            assert_eq!(copy.extensions().get(), Some(&"kept"));
        }
    }
}

//! The layer over requests.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_balance::{Cluster, Prepare};
use http::header::HeaderMap;
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::affinity::Slot;
use super::config::Mode;
use super::tokens::{Genuine, Index, Tokens};
use super::{StickyCookie, dates, request, response, token};

/// Reads and sets the cookie that ties a client to a backend of a cluster.
///
/// It goes above a `Balance` over the same cluster, whose affinity is a
/// [`ByCookie`](crate::ByCookie); retries may be in between. See [`StickyCookie`] for what it does.
///
/// | the request's cookie | the request goes | the response, with `insert` |
/// | --- | --- | --- |
/// | is genuine | where it says, as far as the contract goes | sets nothing, unless another backend has served, the key is not the current one, or its date is to be renewed |
/// | is missing, of another cluster or an unknown key, forged, or too old | where the balancer chooses | sets it |
///
/// A genuine cookie of several is found if it is among the first eight of this name. Other cookies
/// and fields pass byte for byte. Of a response that no backend has given, such as an error of the
/// balancer, nothing is changed.
///
/// Cancel safe where the inner service is. Per request, it allocates what accompanies the request,
/// and otherwise only where a cookie is removed or set.
#[derive(Clone, Debug)]
pub struct StickyCookieLayer {
    shared: Arc<Shared>,
}

/// What all services and requests of a layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cluster: Cluster,
    pub(super) cookie: StickyCookie,
    tokens: Arc<Tokens>,
    attributes: Box<str>,
}

impl StickyCookieLayer {
    /// Ties clients to the backends of `cluster` by `cookie`.
    pub fn new(cluster: Cluster, cookie: StickyCookie) -> Self {
        let tokens = Arc::new(Tokens::new(Arc::clone(cluster.name())));
        cookie.keys.serve(&tokens);
        let prepare: Arc<dyn Prepare> = tokens.clone();
        cluster.prepare(&prepare);
        let attributes = cookie.attributes().into();
        Self { shared: Arc::new(Shared { cluster, cookie, tokens, attributes }) }
    }
}

impl<S> Layer<S> for StickyCookieLayer {
    type Service = StickyCookies<S>;

    fn layer(&self, inner: S) -> Self::Service {
        StickyCookies { inner, shared: Arc::clone(&self.shared) }
    }
}

/// Reads and sets the cookie that ties a client to a backend. See [`StickyCookieLayer`].
#[derive(Clone, Debug)]
pub struct StickyCookies<S> {
    pub(super) inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> Service<Request<B>> for StickyCookies<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = StickyCookieFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = self.shared.read(request.headers_mut());
        let slot = Arc::new(Slot::new(Arc::clone(&self.shared), asked));
        let is_post = request.method() == Method::POST;
        request.extensions_mut().insert(Arc::clone(&slot));
        StickyCookieFuture { response: self.inner.call(request), slot, is_post }
    }
}

pin_project! {
    /// Resolves to the answer of the inner service, with its cookies set right.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct StickyCookieFuture<F> {
        #[pin]
        response: F,
        slot: Arc<Slot>,
        is_post: bool,
    }
}

impl<F, R, E> Future for StickyCookieFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.response.poll(cx)?);
        this.slot.shared.answer(this.slot, *this.is_post, response.headers_mut());
        Poll::Ready(Ok(response))
    }
}

impl Shared {
    /// Reads the cookie, and leaves of it what the backend is to see.
    fn read(&self, headers: &mut HeaderMap) -> Option<Genuine> {
        let name = &*self.cookie.name;
        let mut values = request::values(headers, name).take(CANDIDATES).peekable();
        values.peek()?;
        let index = self.tokens.index();
        let asked = match self.cookie.mode {
            Mode::Insert | Mode::Rewrite => {
                values.find_map(|value| index.resolve(value).filter(|found| self.is_fresh(found)))
            }
            Mode::Prefix => values.find_map(|value| index.resolve_prefix(value)),
        };
        drop(values);
        match self.cookie.mode {
            Mode::Insert if self.cookie.indirect => request::remove(headers, name),
            Mode::Prefix => request::remove_prefixes(headers, name),
            Mode::Insert | Mode::Rewrite => (),
        }
        asked
    }

    /// Whether the cookie is not too old. Only with `insert` are there new dates.
    fn is_fresh(&self, found: &Genuine) -> bool {
        let lifetime = self.cookie.lifetime;
        self.cookie.mode != Mode::Insert
            || !lifetime.is_limited()
            || lifetime.accepts(found.dates, self.now())
    }

    /// Sets the cookies of a response right.
    fn answer(&self, slot: &Slot, is_post: bool, headers: &mut HeaderMap) {
        let Some(served) = slot.served() else { return };
        let name = &*self.cookie.name;
        if self.cookie.preserve && response::is_set(headers, name) {
            return;
        }
        let held = slot.asked.filter(|asked| asked.backend.get() == served);
        let index = self.tokens.index();
        if self.cookie.mode == Mode::Insert {
            response::remove(headers, name);
            if is_post || !self.cookie.postonly {
                self.insert(&index, slot.asked, held, served, headers);
            }
        } else if self.cookie.indirect && held.is_some_and(|held| held.current) {
            response::remove(headers, name);
        } else if response::is_set(headers, name)
            && let Some(mut value) = index.issue(served, dates::Dates::default())
        {
            if self.cookie.mode == Mode::Rewrite {
                response::replace(headers, name, &value);
            } else {
                value.push(token::DELIMITER);
                response::prefix(headers, name, &value);
            }
        }
    }

    /// Sets the cookie, if the one that the client has is not right.
    fn insert(
        &self,
        index: &Index,
        asked: Option<Genuine>,
        held: Option<Genuine>,
        served: u64,
        headers: &mut HeaderMap,
    ) {
        let lifetime = self.cookie.lifetime;
        let now = if lifetime.is_limited() { self.now() } else { 0 };
        if held.is_some_and(|held| held.current && !lifetime.is_due(held.dates, now)) {
            return;
        }
        // The first visit is one to the cluster, whichever backend it was at.
        let dates = lifetime.renewed(asked.map(|asked| asked.dates).unwrap_or_default(), now);
        let Some(value) = index.issue(served, dates) else { return };
        let parts = [self.cookie.name.as_bytes(), b"=", &value, self.attributes.as_bytes()];
        if response::set(headers, parts.concat()) && self.cookie.nocache {
            response::make_private(headers);
        }
    }

    fn now(&self) -> u64 {
        dates::unix(self.cookie.clock.now())
    }
}

/// A browser has two of a name at most as a rule, of two paths or domains. More are looked at in
/// vain, and cost an HMAC each at worst.
const CANDIDATES: usize = 8;

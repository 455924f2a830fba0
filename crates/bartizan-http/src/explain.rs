//! Telling who asks why a backend was picked.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bartizan_balance::{Affinity, Backend, BackendId, Free, Pick, Tie};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use tower_layer::Layer;
use tower_service::Service;

/// Says in a field of the response which backend was picked, and why: `web1 by roundrobin: its turn
/// at position 0`.
///
/// It goes above a `Balance` whose affinity is an [`Explained`]. By itself it answers nobody: say
/// [`when`](Self::when) to answer those who know a secret, or [`always`](Self::always), which tells
/// everybody the names of the backends.
///
/// The field of the request is this layer's alone: it is removed before a backend sees it, secret or
/// not. A response that no backend was picked for has no such field, unless the backend has set it.
#[derive(Clone)]
pub struct ExplainLayer {
    field: HeaderName,
    whom: Whom,
}

#[derive(Clone, Copy)]
enum Whom {
    Nobody,
    // By its digest, so that the time that a comparison takes says nothing about the secret.
    Knowing([u8; 32]),
    Everybody,
}

impl ExplainLayer {
    /// Explains in this field, e.g. `x-pick`.
    pub fn new(field: HeaderName) -> Self {
        Self { field, whom: Whom::Nobody }
    }

    /// Answers requests that have the field with this value, a secret.
    pub fn when(self, secret: &HeaderValue) -> Self {
        Self { whom: Whom::Knowing(Sha256::digest(secret.as_bytes()).into()), ..self }
    }

    /// Answers all requests.
    pub fn always(self) -> Self {
        Self { whom: Whom::Everybody, ..self }
    }

    fn answers(&self, headers: &HeaderMap) -> bool {
        match self.whom {
            Whom::Nobody => false,
            // Only the first: who knows the secret needs no second try.
            Whom::Knowing(secret) => headers
                .get(&self.field)
                .is_some_and(|said| *Sha256::digest(said.as_bytes()) == secret),
            Whom::Everybody => true,
        }
    }
}

impl fmt::Debug for ExplainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExplainLayer").field("field", &self.field).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ExplainLayer {
    type Service = Explain<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Explain { inner, layer: self.clone() }
    }
}

/// Says in a field of the response why a backend was picked. See [`ExplainLayer`].
#[derive(Clone, Debug)]
pub struct Explain<S> {
    inner: S,
    layer: ExplainLayer,
}

impl<S, B, R> Service<Request<B>> for Explain<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ExplainFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = self.layer.answers(request.headers());
        request.headers_mut().remove(&self.layer.field);
        let answer = asked.then(|| (self.layer.field.clone(), Arc::<Picked>::default()));
        if let Some((_, picked)) = &answer {
            request.extensions_mut().insert(Arc::clone(picked));
        }
        ExplainFuture { response: self.inner.call(request), answer }
    }
}

/// The last pick for a request, in its extensions.
#[derive(Debug, Default)]
struct Picked(Mutex<Option<Pick>>);

pin_project! {
    /// Resolves to the answer of the inner service, explained.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct ExplainFuture<F> {
        #[pin]
        response: F,
        answer: Option<(HeaderName, Arc<Picked>)>,
    }
}

impl<F, R, E> Future for ExplainFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.response.poll(cx)?);
        if let Some((field, picked)) = this.answer.take()
            && let Some(pick) = &*picked.0.lock().unwrap_or_else(PoisonError::into_inner)
            && let Ok(text) = HeaderValue::try_from(visible(&pick.to_string()))
        {
            // It may not if there are tens of thousands of fields already.
            let _ = response.headers_mut().try_insert(field, text);
        }
        Poll::Ready(Ok(response))
    }
}

/// Lets an [`ExplainLayer`] above know what the balancer picks. Wraps any other affinity.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explained<A = Free> {
    inner: A,
}

impl Explained {
    /// Picks as the policy chooses.
    pub fn new() -> Self {
        Self { inner: Free::default() }
    }
}

impl<A> Explained<A> {
    /// Ties requests to backends as `inner` does.
    pub fn over(inner: A) -> Self {
        Self { inner }
    }
}

impl<A: Affinity<Request<B>>, B> Affinity<Request<B>> for Explained<A> {
    type Tie = ExplainedTie<A::Tie>;

    fn tie(&self, request: &Request<B>, now: Instant) -> Self::Tie {
        let picked = request.extensions().get::<Arc<Picked>>().cloned();
        ExplainedTie { picked, inner: self.inner.tie(request, now) }
    }
}

/// What ties one request to a backend, and tells of it. See [`Explained`].
#[derive(Debug)]
pub struct ExplainedTie<T> {
    picked: Option<Arc<Picked>>,
    inner: T,
}

impl<T: Tie> Tie for ExplainedTie<T> {
    fn hash(&self) -> Option<u64> {
        self.inner.hash()
    }

    fn poll_pin(&mut self, cx: &mut Context<'_>) -> Poll<Option<bartizan_balance::Pin>> {
        self.inner.poll_pin(cx)
    }

    fn propose(&mut self, backend: &Backend) -> BackendId {
        self.inner.propose(backend)
    }

    fn failed(&mut self, backend: &Backend) {
        self.inner.failed(backend);
    }

    fn settled(&mut self, pick: &Pick) {
        if let Some(picked) = &self.picked {
            *picked.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pick.clone());
        }
        self.inner.settled(pick);
    }
}

/// The text in visible ASCII and spaces, which no reader of a field can misunderstand.
fn visible(text: &str) -> String {
    let visible = |letter: char| match letter {
        ' '..='~' => letter,
        'µ' => 'u',
        _ => '?',
    };
    text.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;
    use std::task::Waker;

    use bartizan_balance::{HashBy, PickContext, Policy, Reason, RoundRobin};

    use super::*;

    const PICK: HeaderName = HeaderName::from_static("x-pick");

    /// What a balancer that settles at these backends, one after another, is explained with. Its
    /// backend sets the field to what it has seen of it.
    fn explained(layer: &ExplainLayer, sent: &[&str], backends: &[&str]) -> Option<String> {
        let policy = RoundRobin::new();
        let inner = tower::service_fn(move |request: Request<()>| {
            let now = tokio::time::Instant::now().into_std();
            let mut tie = Explained::new().tie(&request, now);
            for name in backends {
                let web = bartizan_balance::Cluster::builder("web").backend(name, "127.0.0.1:80");
                let table = web.build().unwrap();
                tie.settled(&policy.pick(&table.table(), &PickContext::new(now)).unwrap());
            }
            let seen = request.headers().get(PICK).cloned();
            let mut response = Response::new(());
            if let Some(seen) = seen {
                response.headers_mut().insert(PICK, seen);
            }
            ready(Ok::<_, Infallible>(response))
        });
        let mut request = Request::new(());
        for value in sent {
            request.headers_mut().append(PICK, value.parse().unwrap());
        }
        let response = tokio_test::block_on(layer.layer(inner).call(request)).unwrap();
        response.headers().get(PICK).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_who_knows_the_secret_is_told() {
        let layer = ExplainLayer::new(PICK).when(&HeaderValue::from_static("open sesame"));
        let told = Some("web1 by roundrobin: its turn at position 0".to_owned());
        for (sent, answer) in [
            (&["open sesame"][..], told.clone()),
            (&["open sesame", "x"], told.clone()),
            (&["x", "open sesame"], None),
            (&["open sesam"], None),
            (&["Open Sesame"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(explained(&layer, sent, &["web1"]), answer, "{sent:?}");
        }
        assert_eq!(explained(&ExplainLayer::new(PICK), &["open sesame"], &["web1"]), None);
        assert_eq!(explained(&ExplainLayer::new(PICK), &[], &["web1"]), None);
        assert_eq!(explained(&ExplainLayer::new(PICK).always(), &[], &["web1"]), told);
        assert!(!format!("{layer:?}").contains("sesame"));
    }

    #[test]
    fn the_last_pick_is_told_in_visible_ascii_and_none_where_nothing_was_picked() {
        let layer = ExplainLayer::new(PICK).always();
        let text = explained(&layer, &["x"], &["web1", "wéb2\r\nSet-Cookie: a=b"]).unwrap();
        assert!(text.starts_with("w?b2??Set-Cookie: a=b by roundrobin"), "{text}");
        assert_eq!(explained(&layer, &["x"], &[]), None);
        assert_eq!(visible("12 µs"), "12 us");
    }

    #[test]
    fn what_is_wrapped_is_asked_and_told_as_before() {
        #[derive(Default)]
        struct Told(Vec<&'static str>);
        impl Tie for Told {
            fn poll_pin(&mut self, _: &mut Context<'_>) -> Poll<Option<bartizan_balance::Pin>> {
                self.0.push("pin");
                Poll::Pending
            }
            fn failed(&mut self, _: &Backend) {
                self.0.push("failed");
            }
            fn settled(&mut self, _: &Pick) {
                self.0.push("settled");
            }
            fn propose(&mut self, backend: &Backend) -> BackendId {
                self.0.push("propose");
                backend.id()
            }
        }
        let backend = Arc::new(Backend::new("web1", "127.0.0.1:80".parse().unwrap()));
        let mut tie = ExplainedTie { picked: None, inner: Told::default() };
        assert!(tie.poll_pin(&mut Context::from_waker(Waker::noop())).is_pending());
        tie.propose(&backend);
        tie.failed(&backend);
        tie.settled(&Pick::new(backend, "policy", Reason::Drawn));
        assert_eq!(tie.inner.0, ["pin", "propose", "failed", "settled"]);

        let by = bartizan_balance::key_fn(|request: &Request<()>| {
            Some(bartizan_balance::Key::Bytes(request.uri().path().as_bytes().into()))
        });
        let now = tokio::time::Instant::now().into_std();
        let request = Request::new(());
        let hash = HashBy::new(by).tie(&request, now).hash();
        assert!(
            hash.is_some() && Explained::over(HashBy::new(by)).tie(&request, now).hash() == hash
        );
    }
}

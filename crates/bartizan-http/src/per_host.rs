//! A stack of services for each host that is asked for.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bartizan_net::{BoxError, fold_host};
use http::Request;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::SendError;
use crate::headers::authority;
use crate::host_guard::bare;

/// Makes a [`PerHost`] of what makes a stack for a host.
#[derive(Clone, Copy, Debug)]
pub struct PerHostLayer {
    max_hosts: usize,
}

impl PerHostLayer {
    /// For up to 1,000 hosts at once.
    pub fn new() -> Self {
        Self { max_hosts: MAX_HOSTS }
    }

    /// How many hosts have a stack at once; at least one. Default: 1,000.
    pub fn max_hosts(mut self, count: usize) -> Self {
        self.max_hosts = count;
        self
    }
}

impl Default for PerHostLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<F, S> Layer<F> for PerHostLayer
where
    F: Fn(&str) -> S,
{
    type Service = PerHost<F, S>;

    fn layer(&self, make: F) -> Self::Service {
        PerHost::new(self.max_hosts, make)
    }
}

/// A request service that keeps a stack of services for each host that is asked for.
///
/// For backends whose TLS server name has to be the requested host, as with HAProxy's `sni-auto` or
/// nginx' `proxy_ssl_name $host`: what makes a stack sets the name in its TLS layer, so that
/// connections made for one name are used for no other.
///
/// The host is that of the target, or else of `Host`, without port and brackets, in lower case and
/// without a dot at its end. Clients choose it: whoever asks for more hosts than are kept makes
/// the one that was used longest ago go, with its idle connections. To serve none but known hosts,
/// refuse the others before this. Clones share the stacks.
///
/// ```
/// use bartizan_balance::{Balance, Cluster, RoundRobin};
/// use bartizan_http::{HttpPool, PerHost, RequestBody};
/// use bartizan_net::TcpDial;
///
/// # fn stack() -> Result<(), Box<dyn std::error::Error>> {
/// let web = Cluster::builder("web").backend("web1", "192.168.1.10:443").build()?;
/// let requests = PerHost::new(1_000, move |host: &str| {
///     // The server name would go into the TLS layer between the two.
///     tracing::debug!(host, "new stack");
///     let pool = HttpPool::<_, RequestBody>::new(TcpDial::new());
///     Balance::new(web.clone(), RoundRobin::new(), pool)
/// });
/// # drop(requests);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The stack's own, or [`SendError::BadHost`] for a request that does not name one host.
pub struct PerHost<F, S> {
    make: F,
    kept: Arc<Mutex<Kept<S>>>,
}

struct Kept<S> {
    hosts: HashMap<Box<str>, Stack<S>>,
    max: usize,
    // Counts uses, to know which was longest ago.
    clock: u64,
}

struct Stack<S> {
    service: S,
    used: u64,
}

impl<F, S> PerHost<F, S>
where
    F: Fn(&str) -> S,
{
    /// Keeps stacks for up to `max` hosts, at least one; `make` is given the host.
    pub fn new(max: usize, make: F) -> Self {
        let kept = Kept { hosts: HashMap::new(), max: max.max(1), clock: 0 };
        Self { make, kept: Arc::new(Mutex::new(kept)) }
    }
}

impl<F, S: Clone> PerHost<F, S>
where
    F: Fn(&str) -> S,
{
    fn of(&self, host: &str) -> S {
        if let Some(service) = lock(&self.kept).get(host) {
            return service;
        }
        // Not under the lock: it may take its time. Of two at once, the first stays.
        let made = (self.make)(host);
        let mut kept = lock(&self.kept);
        if let Some(service) = kept.get(host) {
            return service;
        }
        let displaced = kept.insert(host, made.clone());
        drop(kept);
        // What it holds may take its time, too.
        drop(displaced);
        made
    }
}

impl<S: Clone> Kept<S> {
    fn get(&mut self, host: &str) -> Option<S> {
        self.clock += 1;
        let stack = self.hosts.get_mut(host)?;
        stack.used = self.clock;
        Some(stack.service.clone())
    }

    /// Adds a stack. Returns the one that has to go for it.
    fn insert(&mut self, host: &str, service: S) -> Option<Stack<S>> {
        let oldest = || self.hosts.iter().min_by_key(|(_, stack)| stack.used);
        let full = self.hosts.len() >= self.max;
        let oldest = full.then(oldest).flatten().map(|(host, _)| host.clone());
        let displaced = oldest.and_then(|host| self.hosts.remove(&host));
        self.hosts.insert(host.into(), Stack { service, used: self.clock });
        displaced
    }
}

fn lock<S>(kept: &Mutex<Kept<S>>) -> MutexGuard<'_, Kept<S>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: Clone, S> Clone for PerHost<F, S> {
    fn clone(&self) -> Self {
        Self { make: self.make.clone(), kept: Arc::clone(&self.kept) }
    }
}

impl<F, S> fmt::Debug for PerHost<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = lock(&self.kept);
        f.debug_struct("PerHost")
            .field("hosts", &kept.hosts.len())
            .field("max", &kept.max)
            .finish_non_exhaustive()
    }
}

impl<F, S, B> Service<Request<B>> for PerHost<F, S>
where
    F: Fn(&str) -> S,
    S: Service<Request<B>, Error: Into<BoxError>> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = PerHostFuture<S, Request<B>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Which stack has to be ready is known with the request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let authority = authority(&request).ok().flatten();
        let host = authority.as_ref().and_then(|authority| bare(authority.as_str().as_bytes()));
        let state = match host {
            Some(host) => {
                State::Ready { service: self.of(&fold_host(host)), request: Some(request) }
            }
            None => State::Refused,
        };
        PerHostFuture { state }
    }
}

pin_project! {
    /// Resolves to the response of the host's stack.
    pub struct PerHostFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, S::Future, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Fut, Req> {
        Ready { service: S, request: Option<Req> },
        Call { #[pin] call: Fut },
        Refused,
    }
}

impl<S: Service<Req>, Req> fmt::Debug for PerHostFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerHostFuture").finish_non_exhaustive()
    }
}

impl<S, Req> Future for PerHostFuture<S, Req>
where
    S: Service<Req, Error: Into<BoxError>>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let call = match state.as_mut().project() {
                StateProj::Ready { service, request } => {
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    service.call(request.take().expect("taken in the step that leaves this state"))
                }
                StateProj::Call { call } => return call.poll(cx).map_err(Into::into),
                StateProj::Refused => return Poll::Ready(Err(SendError::BadHost.into())),
            };
            state.set(State::Call { call });
        }
    }
}

/// Each keeps connections of its own; a site with more names is rather one with wildcards.
const MAX_HOSTS: usize = 1_000;

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::status_of;

    type Log = Arc<Mutex<Vec<String>>>;

    fn request(uri: &str, host: Option<&str>) -> Request<()> {
        let request = Request::get(uri);
        let request = if let Some(host) = host { request.header("host", host) } else { request };
        request.body(()).unwrap()
    }

    /// Answers with the host that its stack was made for; notes for which stacks were made.
    async fn ask(max: usize, requests: &[Request<()>]) -> (Vec<String>, Vec<String>) {
        let log = Log::default();
        let made = Arc::clone(&log);
        let service = PerHostLayer::new().max_hosts(max).layer(move |host: &str| {
            made.lock().unwrap().push(host.to_owned());
            let host = host.to_owned();
            service_fn(move |_: Request<()>| std::future::ready(Ok::<_, BoxError>(host.clone())))
        });
        let mut answers = Vec::new();
        for request in requests {
            answers.push(service.clone().oneshot(request.clone()).await.unwrap());
        }
        let made = log.lock().unwrap().clone();
        (answers, made)
    }

    #[tokio::test]
    async fn one_stack_serves_all_spellings_of_a_host() {
        let requests = [
            request("/", Some("Example.com")),
            request("/", Some("example.COM.:8443")),
            request("http://example.com:80/", None),
            request("http://example.com/", Some("other.test")),
            request("/", Some("[2001:DB8::1]:443")),
            request("/", Some("[2001:db8::1]")),
        ];
        let (answers, made) = ask(10, &requests).await;
        assert_eq!(made, ["example.com", "2001:db8::1"]);
        let names = ["example.com", "2001:db8::1"];
        assert_eq!(answers, [[names[0]; 4].as_slice(), &[names[1]; 2]].concat());
    }

    #[tokio::test]
    async fn the_host_used_longest_ago_goes() {
        let hosts = ["a", "b", "a", "c", "a", "b"].map(|host| request("/", Some(host)));
        let (answers, made) = ask(2, &hosts).await;
        assert_eq!(answers, ["a", "b", "a", "c", "a", "b"]);
        assert_eq!(made, ["a", "b", "c", "b"]);
        assert_eq!(ask(0, &hosts[..3]).await.1, ["a", "b", "a"], "one at least");
    }

    #[tokio::test]
    async fn a_request_without_one_host_is_the_clients_fault() {
        let mut two = request("/", Some("a"));
        two.headers_mut().append("host", "b".parse().unwrap());
        for request in [request("/", None), request("/", Some("")), request("/", Some("a,b")), two]
        {
            let service = PerHost::new(1, |_: &str| {
                service_fn(|_: Request<()>| std::future::ready(Ok::<_, BoxError>(())))
            });
            let error = service.oneshot(request).await.unwrap_err();
            assert_eq!(status_of(&*error), 400, "{error:?}");
        }
    }
}

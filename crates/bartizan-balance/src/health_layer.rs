//! Checks that take the way of the traffic.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::{Backend, CheckGuard, Checks, Cluster, Verdict};

/// Checks a cluster through the dial service that it is put over, so that probes take TLS, the PROXY
/// protocol and timeouts of the stack as they are. What is dialled passes through unchanged.
///
/// ```
/// use bartizan_balance::{Checks, Cluster, DialProbe, HealthLayer};
/// use bartizan_net::TcpDial;
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let web = Cluster::builder("web").backend("web1", "192.168.1.10:443").build()?;
/// let health = HealthLayer::new(web.clone(), |dial| Checks::new(DialProbe::new(dial)).fall(2));
/// // What connects to backends, TLS and all, stands below it; what uses the connections above.
/// let dial = ServiceBuilder::new().layer(health).service(TcpDial::new());
/// # drop(dial);
/// # Ok(()) }
/// ```
///
/// The checks start when it is first put over a dial service, and go on for as long as there is the
/// layer, a clone of it, or a service made of one. A layer that several stacks share, one per worker,
/// starts one set of checks, over the first of their dial services and in the runtime of the thread
/// that puts it there. If that runtime ends and others do not, nobody is checked any more: backends
/// stay as they were found last, until the layer is put over a dial service anew, which starts the
/// checks again.
///
/// # Panics
///
/// `layer` panics outside a tokio runtime, as everything that spawns.
pub struct HealthLayer<F> {
    cluster: Cluster,
    checks: Arc<F>,
    running: Arc<Running>,
}

/// The checks, once they have started. Services hold it as well.
#[derive(Debug, Default)]
struct Running(Mutex<Option<CheckGuard>>);

impl<F> HealthLayer<F> {
    /// Checks `cluster` with what `checks` makes of the dial service.
    pub fn new(cluster: Cluster, checks: F) -> Self {
        Self { cluster, checks: Arc::new(checks), running: Arc::default() }
    }
}

impl<D, F, Pr> Layer<D> for HealthLayer<F>
where
    D: Clone,
    F: Fn(D) -> Checks<Pr>,
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
    Pr: Clone + Send + Sync + 'static,
    Pr::Future: Send,
{
    type Service = Checked<D>;

    fn layer(&self, dial: D) -> Checked<D> {
        let mut running = self.running.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !running.as_ref().is_some_and(CheckGuard::is_running) {
            // What checks found last holds until others look, once they are gone.
            drop(running.take());
            *running = Some(self.cluster.check((self.checks)(dial.clone())));
        }
        drop(running);
        Checked { dial, running: Arc::clone(&self.running) }
    }
}

impl<F> Clone for HealthLayer<F> {
    fn clone(&self) -> Self {
        Self {
            cluster: self.cluster.clone(),
            checks: Arc::clone(&self.checks),
            running: Arc::clone(&self.running),
        }
    }
}

impl<F> fmt::Debug for HealthLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = self.cluster.name();
        f.debug_struct("HealthLayer").field("cluster", cluster).finish_non_exhaustive()
    }
}

/// A dial service through which a cluster is checked: what a [`HealthLayer`] makes. Passes all through.
#[derive(Clone, Debug)]
pub struct Checked<D> {
    dial: D,
    // Keeps the checks going.
    #[allow(dead_code, reason = "held for its drop")]
    running: Arc<Running>,
}

impl<D: Service<T>, T> Service<T> for Checked<D> {
    type Response = D::Response;
    type Error = D::Error;
    type Future = D::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), D::Error>> {
        self.dial.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        self.dial.call(target)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use bartizan_net::BoxError;
    use tokio::time::sleep;
    use tower::ServiceExt;

    use super::*;
    use crate::{DialProbe, InitState};

    /// A dial service that counts, and refuses if it is told to.
    #[derive(Clone, Default)]
    struct Fake {
        dials: Arc<AtomicUsize>,
        refuses: bool,
    }

    impl Fake {
        fn refusing() -> Self {
            Self { refuses: true, ..Self::default() }
        }

        fn dials(&self) -> usize {
            self.dials.load(Ordering::Relaxed)
        }
    }

    impl Service<Arc<Backend>> for Fake {
        type Response = Arc<str>;
        type Error = io::Error;
        type Future = std::future::Ready<io::Result<Arc<str>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
            self.dials.fetch_add(1, Ordering::Relaxed);
            std::future::ready(match self.refuses {
                true => Err(io::Error::other("refused")),
                false => Ok(Arc::clone(backend.name())),
            })
        }
    }

    fn web() -> Cluster {
        Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap()
    }

    fn member(web: &Cluster) -> Arc<Backend> {
        Arc::clone(&web.table().members()[0])
    }

    fn layer<D>(web: &Cluster) -> HealthLayer<impl Fn(D) -> Checks<DialProbe<D>>>
    where
        D: Service<Arc<Backend>, Error: Into<BoxError>>,
    {
        HealthLayer::new(web.clone(), |dial| Checks::new(DialProbe::new(dial)).fall(1).rise(1))
    }

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_dialled_passes_through_and_is_probed_as_well() {
        let (web, fake) = (web(), Fake::default());
        let checked = layer(&web).layer(fake.clone());
        let dialled = checked.clone().oneshot(member(&web)).await.unwrap();
        assert_eq!((&*dialled, fake.dials()), ("a", 1));
        sleep(secs(5)).await;
        assert_eq!(fake.dials(), 1 + 3, "probes at 0, 2 and 4 s");

        let refusing = layer(&web).layer(Fake::refusing());
        assert_eq!(refusing.oneshot(member(&web)).await.unwrap_err().to_string(), "refused");
    }

    #[tokio::test(start_paused = true)]
    async fn several_stacks_share_one_set_of_checks_over_the_first() {
        let (web, first, second) = (web(), Fake::default(), Fake::refusing());
        let health = layer(&web);
        let _stacks = (health.layer(first.clone()), health.clone().layer(second.clone()));
        sleep(secs(3)).await;
        assert_eq!((first.dials(), second.dials()), (2, 0));
        assert!(member(&web).is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn the_checks_end_with_the_last_service_and_the_layer() {
        let (web, fake) = (web(), Fake::default());
        let health = layer(&web);
        let checked = health.layer(fake.clone());
        let other = checked.clone();
        drop((health, checked));
        sleep(secs(3)).await;
        assert_eq!(fake.dials(), 2);
        drop(other);
        sleep(secs(9)).await;
        assert_eq!(fake.dials(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_was_never_put_over_anything_checks_nothing() {
        let web = web();
        let proves = |dial: Fake| Checks::new(DialProbe::new(dial)).init_state(InitState::Down);
        let health = HealthLayer::new(web.clone(), proves);
        assert!(web.table().is_eligible(0));
        let _checked = health.layer(Fake::default());
        assert!(!web.table().is_eligible(0), "it has yet to be checked");
    }

    #[test]
    fn after_the_end_of_their_runtime_the_checks_start_anew() {
        let (web, first, second) = (web(), Fake::refusing(), Fake::default());
        let health = layer(&web);
        let paused = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().unwrap()
        };
        paused().block_on(async {
            let _ = health.layer(first.clone());
            sleep(secs(1)).await;
        });
        assert!(!member(&web).is_up());
        assert_eq!(first.dials(), 1);
        paused().block_on(async {
            let _ = health.layer(second.clone());
            assert!(!member(&web).is_up(), "it is as it was found last");
            sleep(secs(1)).await;
        });
        assert_eq!((first.dials(), second.dials()), (1, 1));
        assert!(member(&web).is_up());
    }
}

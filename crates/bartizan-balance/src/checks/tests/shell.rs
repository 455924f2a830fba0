//! What the one task does beyond its schedule.

use bartizan_net::Target;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

use super::*;
use crate::{HealthCounts, State};

/// A cluster of this many, called b0, b1 and so on.
fn many(count: usize) -> Cluster {
    let names: Vec<String> = (0..count).map(|i| format!("b{i}")).collect();
    cluster(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn set_state(cluster: &Cluster, name: &str, state: State) {
    cluster.update(|change| change.set_state(name, state)).unwrap();
}

/// Fails as `Fake` is set to for the backend called `name`, and passes for others.
fn only(name: &'static str, fake: &Fake) -> impl ProbeOf {
    let fake = fake.clone();
    tower::service_fn(move |backend: Arc<Backend>| {
        let mut fake = fake.clone();
        async move {
            match &**backend.name() == name {
                true => fake.call(backend).await,
                false => Ok(Verdict::Pass),
            }
        }
    })
}

trait ProbeOf:
    Service<Arc<Backend>, Response = Verdict, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> ProbeOf for T where
    T: Service<Arc<Backend>, Response = Verdict, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// How many probes run at once, and the most that ever have.
#[derive(Clone, Default)]
struct Gauge(Arc<Mutex<(usize, usize)>>);

struct Running(Gauge);

impl Gauge {
    fn enter(&self) -> Running {
        let mut gauge = self.0.lock().unwrap();
        gauge.0 += 1;
        gauge.1 = gauge.1.max(gauge.0);
        Running(self.clone())
    }

    fn running(&self) -> usize {
        self.0.lock().unwrap().0
    }

    fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }

    /// A probe that hangs.
    fn probe(&self) -> impl ProbeOf {
        let gauge = self.clone();
        tower::service_fn(move |_: Arc<Backend>| {
            let running = gauge.enter();
            async move {
                pending::<()>().await;
                drop(running);
                Ok(Verdict::Pass)
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().0 -= 1;
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_probes_run_at_once_and_no_more() {
    let (web, gauge) = (many(10), Gauge::default());
    let checks = Checks::new(gauge.probe()).init_state(InitState::Down).max_concurrent(3);
    let told = Told::default();
    let _listening = tracing::subscriber::set_default(told.clone());
    let _checks = web.check(checks);
    sleep(Duration::from_millis(500)).await;
    assert_eq!((gauge.running(), gauge.most()), (3, 3));
    sleep(Duration::from_millis(3_400)).await;
    assert_eq!(gauge.most(), 3);
    let probed = web.table().members().iter().filter(|m| failed(&web, m) > 0).count();
    assert_eq!(probed, 9, "three a second, each in its turn");
    assert_eq!(told.count("probes are late"), 1);
}

fn failed(cluster: &Cluster, backend: &Backend) -> u64 {
    cluster.health(backend).unwrap().counts.checks_failed
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed_and_concerns_no_other() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Panic));
    let told = Told::default();
    let _listening = tracing::subscriber::set_default(told.clone());
    let start = Instant::now();
    let _checks = web.check(Checks::new(only("a", &fake)));
    assert_eq!(until_eligible(&web, 0, false, start).await / 10, 400);
    let report = web.health(&member(&web, 0)).unwrap();
    assert!(report.reason.ends_with("the probe panicked"), "{report}");
    assert!(web.health(&member(&web, 1)).unwrap().counts.checks_passed >= 2);
    assert_eq!(told.count("the probe panicked, which"), 1, "though it has thrice");
}

#[tokio::test(start_paused = true)]
async fn maintenance_ends_the_probe_that_runs_and_its_end_is_probed_at_once() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()));
    sleep(Duration::from_millis(2500)).await;
    set_state(&web, "a", State::Maintenance);
    sleep(secs(60)).await;
    assert_eq!(fake.times("a"), [0, 2000]);
    set_state(&web, "a", State::Ready);
    sleep(Duration::from_millis(3000)).await;
    assert_eq!(fake.times("a"), [0, 2000, 62_500, 64_500]);

    let gauge = Gauge::default();
    let _others = web.check(Checks::new(gauge.probe()).timeout(secs(100)).fall(1));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(gauge.running(), 1);
    set_state(&web, "a", State::Maintenance);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(gauge.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_maintenance_from_the_beginning_is_not_probed_either() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Pass));
    set_state(&web, "a", State::Maintenance);
    let _checks = web.check(Checks::new(fake.clone()).init_state(InitState::Down));
    sleep(secs(5)).await;
    assert_eq!((fake.times("a").len(), fake.times("b").len()), (0, 3));
    set_state(&web, "a", State::Drain);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fake.times("a"), [5000], "drained is checked");
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_agent_goes_on_in_maintenance() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()).in_maintenance(true));
    set_state(&web, "a", State::Maintenance);
    sleep(secs(5)).await;
    assert_eq!(fake.times("a"), [0, 2000, 4000]);
}

#[tokio::test(start_paused = true)]
async fn who_is_hurried_is_probed_within_the_fast_interval_in_whatever_cluster() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Pass));
    let a = member(&web, 0);
    let other = cluster(&[]);
    other.update(|change| change.add(Arc::clone(&a))).unwrap();
    let checks = Checks::new(fake.clone()).every(secs(10)).fast(secs(1));
    let _checks = web.check(checks);
    sleep(secs(2)).await;
    web.hurry(&a);
    sleep(secs(2)).await;
    assert_eq!(fake.times("a"), [0, 3000]);
    // As errors of requests to the other cluster do.
    other.hurry(&a);
    sleep(secs(2)).await;
    assert_eq!(fake.times("a"), [0, 3000, 5000]);
    assert_eq!(fake.times("b"), [5000], "on its own time");
}

#[tokio::test(start_paused = true)]
async fn the_pace_is_that_of_the_verdicts() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let checks = Checks::new(fake.clone()).fast(Duration::from_millis(300)).down(secs(7));
    let _checks = web.check(checks);
    sleep(secs(8)).await;
    assert_eq!(fake.times("a"), [0, 300, 600, 7600]);
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_is_probed_and_the_verdict_is_about_the_member() {
    let seen: Arc<Mutex<Vec<Arc<Backend>>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let probe = tower::service_fn(move |backend: Arc<Backend>| {
        noted.lock().unwrap().push(backend);
        std::future::ready(Ok::<_, Infallible>(Verdict::unfit("another")))
    });
    let web = Cluster::builder("web").backend("a", "web1.internal:443").build().unwrap();
    let target = ProbeTarget::new().port(8080);
    let _checks = web.check(Checks::new(probe).target(target.clone()));
    sleep(secs(3)).await;
    assert!(!web.table().is_eligible(0));
    let seen = seen.lock().unwrap().clone();
    assert!(Arc::ptr_eq(&seen[0], &seen[1]), "made once");
    let described = |target: ProbeTarget| {
        let probed = target.of(&member(&web, 0));
        let name = probed.server_name().unwrap_or_default().to_owned();
        (probed.name().to_string(), probed.address().to_string(), name)
    };
    let is = |address: &str, name: &str| ("a".to_owned(), address.to_owned(), name.to_owned());
    assert_eq!(seen[0].address().to_string(), "web1.internal:8080");
    assert_eq!(described(target.clone()), is("web1.internal:8080", "web1.internal"));
    let elsewhere = target.address("192.0.2.7:1".parse::<Address>().unwrap());
    assert_eq!(described(elsewhere.clone()), is("192.0.2.7:8080", "web1.internal"));
    assert_eq!(described(elsewhere.server_name("health")), is("192.0.2.7:8080", "health"));
    assert!(Arc::ptr_eq(&ProbeTarget::new().of(&member(&web, 0)), &member(&web, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_what_has_left_is_dropped_at_once() {
    let (web, gauge) = (many(2), Gauge::default());
    let checks = Checks::new(gauge.probe()).init_state(InitState::Up).every(secs(1));
    let _checks = web.check(checks.timeout(secs(1000)));
    sleep(secs(2)).await;
    assert_eq!(gauge.running(), 2);
    web.update(|change| change.remove("b0")).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(gauge.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_cluster_while_it_sleeps_or_probes() {
    for every in [secs(1), secs(10_000)] {
        let (web, gauge) = (many(1), Gauge::default());
        let checks = Checks::new(gauge.probe()).every(every).timeout(secs(1));
        let guard = web.check(checks);
        sleep(Duration::from_millis(1500)).await;
        drop(web);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(gauge.running(), 0);
        assert!(guard.task.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_are_probed_evenly() {
    let (web, started) = (many(10_000), Arc::new(Mutex::new(vec![0_usize; 100])));
    let (noted, start) = (Arc::clone(&started), Instant::now());
    let probe = tower::service_fn(move |_: Arc<Backend>| {
        let window = start.elapsed().as_millis() as usize / 20;
        noted.lock().unwrap()[window % 100] += 1;
        std::future::ready(Ok::<_, Infallible>(Verdict::Pass))
    });
    let _checks = web.check(Checks::new(probe));
    sleep(Duration::from_millis(3_999)).await;
    let most = started.lock().unwrap().iter().max().copied().unwrap_or_default();
    // Twice a hundred would be perfect.
    assert!(most <= 215, "{most}");
}

#[tokio::test(start_paused = true)]
async fn what_has_happened_is_counted() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let _checks = web.check(Checks::new(fake.clone()));
    sleep(secs(7)).await;
    fake.answer(Answer::Pass);
    sleep(secs(6)).await;
    let counts = web.health(&member(&web, 0)).unwrap().counts;
    // At 0, 2, 4 and 6, and at 8, 10 and 12 s.
    let expected = HealthCounts {
        checks_passed: 3,
        checks_failed: 4,
        went_up: 1,
        went_down: 1,
        ..HealthCounts::default()
    };
    assert_eq!(counts, expected);
}

#[tokio::test(start_paused = true)]
async fn why_it_stays_down_is_told_once_for_each_kind() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let told = Told::default();
    let _listening = tracing::subscriber::set_default(told.clone());
    let _checks = web.check(Checks::new(fake.clone()).init_state(InitState::FullyDown));
    sleep(secs(9)).await;
    assert_eq!(told.count("backend stays"), 1);
    fake.answer(Answer::Unfit);
    sleep(secs(9)).await;
    assert_eq!(told.count("it is unfit"), 1);
    assert_eq!(told.count("backend stays"), 1, "the change has told why");
}

/// The messages of the log.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn count(&self, with: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|message| message.contains(with)).count()
    }
}

impl tracing::Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Message<'a>(&'a Told);
        impl Visit for Message<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0.0.lock().unwrap().push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Message(self));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

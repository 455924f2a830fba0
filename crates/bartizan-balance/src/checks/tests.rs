use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bartizan_net::Address;
use bartizan_testkit::misbehave::refused_addr;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep;
use tower::ServiceExt;

use super::*;

mod comings_and_goings;
mod shell;

/// A probe whose answers the test sets, and which notes who was probed when.
#[derive(Clone)]
struct Fake {
    answer: Arc<Mutex<Answer>>,
    start: Instant,
    // In milliseconds from the start.
    seen: watch::Sender<Vec<(String, u64)>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Pass,
    Fail,
    Unfit,
    Hang,
    Panic,
}

impl Fake {
    fn new(answer: Answer) -> Self {
        let seen = watch::Sender::new(Vec::new());
        Self { answer: Arc::new(Mutex::new(answer)), start: Instant::now(), seen }
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// When `name` was probed so far.
    fn times(&self, name: &str) -> Vec<u64> {
        self.seen.borrow().iter().filter(|(who, _)| who == name).map(|(_, when)| *when).collect()
    }

    fn clear(&self) {
        self.seen.send_modify(Vec::clear);
    }
}

impl Service<Arc<Backend>> for Fake {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Verdict, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        let when = self.start.elapsed().as_millis() as u64;
        self.seen.send_modify(|seen| seen.push((backend.name().to_string(), when)));
        // A loop of probes shows in the times, rather than stopping the paused clock.
        let looping = self.seen.borrow().len() > 100;
        let answer = if looping { Answer::Hang } else { *self.answer.lock().unwrap() };
        Box::pin(async move {
            match answer {
                Answer::Pass => Ok(Verdict::Pass),
                Answer::Fail => Ok(Verdict::fail("no")),
                Answer::Unfit => Ok(Verdict::unfit("another")),
                Answer::Hang => pending().await,
                // Not `panic!`: the hook would print it as if the test had failed.
                Answer::Panic => std::panic::resume_unwind(Box::new("a defect")),
            }
        })
    }
}

fn cluster(names: &[&str]) -> Cluster {
    let add = |builder: crate::ClusterBuilder, name: &&str| builder.backend(name, "127.0.0.1:1");
    names.iter().fold(Cluster::builder("web"), add).build().unwrap()
}

fn backend(name: &str, addr: SocketAddr) -> Arc<Backend> {
    Arc::new(Backend::new(name, Address::from(addr)))
}

fn member(cluster: &Cluster, position: usize) -> Arc<Backend> {
    Arc::clone(&cluster.table().members()[position])
}

/// Waits until the table shows what `position` is to be, and says when, from `start`.
async fn until_eligible(cluster: &Cluster, position: usize, is: bool, start: Instant) -> u64 {
    while cluster.table().is_eligible(position) != is {
        sleep(Duration::from_millis(1)).await;
        assert!(start.elapsed() < secs(60), "it never is");
    }
    start.elapsed().as_millis() as u64
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn the_defaults_are_haproxys() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let start = Instant::now();
    let _checks = web.check(Checks::new(fake.clone()));

    // Probes at 0, 2 and 4 s; the third failure in a row takes it out.
    assert_eq!(until_eligible(&web, 0, false, start).await / 10, 400);
    assert_eq!(fake.times("a"), [0, 2000, 4000]);
    fake.answer(Answer::Pass);
    // Probes at 6 and 8 s; the second pass in a row brings it back.
    assert_eq!(until_eligible(&web, 0, true, start).await / 10, 800);
    assert_eq!(fake.times("a"), [0, 2000, 4000, 6000, 8000]);
    assert!(member(&web, 0).is_up());
}

#[tokio::test(start_paused = true)]
async fn rise_fall_and_interval_are_as_set() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let start = Instant::now();
    let checks = Checks::new(fake.clone()).every(secs(10)).rise(3).fall(2);
    let _checks = web.check(checks);

    assert_eq!(until_eligible(&web, 0, false, start).await / 10, 1000);
    fake.answer(Answer::Pass);
    assert_eq!(until_eligible(&web, 0, true, start).await / 10, 4000);
}

#[tokio::test(start_paused = true)]
async fn a_single_failure_changes_nothing() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let _checks = web.check(Checks::new(fake.clone()).fall(2));
    for _ in 0..3 {
        // Fails at 0, 4, 8 s and passes at 2, 6, 10 s.
        sleep(Duration::from_millis(1)).await;
        fake.answer(Answer::Pass);
        sleep(secs(2)).await;
        fake.answer(Answer::Fail);
        sleep(Duration::from_millis(1999)).await;
        assert!(web.table().is_eligible(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_is_a_failure_at_its_timeout() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Hang));
    let start = Instant::now();
    let _checks = web.check(Checks::new(fake.clone()).timeout(Duration::from_millis(500)).fall(2));

    assert_eq!(until_eligible(&web, 0, false, start).await / 10, 250);
    assert_eq!(fake.times("a"), [0, 2000]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_never_probed_twice_at_once() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Hang));
    // A timeout that is longer than the interval.
    let _checks = web.check(Checks::new(fake.clone()).every(secs(1)).timeout(secs(5)));
    sleep(secs(14)).await;
    let times = fake.times("a");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 5000), "{times:?}");
    assert_eq!(times.len(), 3, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn first_probes_are_spread_over_one_interval() {
    let (web, fake) = (cluster(&["a", "b", "c", "d"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()).every(secs(4)));
    sleep(Duration::from_millis(7999)).await;
    for (name, first) in [("a", 0), ("b", 1000), ("c", 2000), ("d", 3000)] {
        assert_eq!(fake.times(name), [first, first + 4000]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_flip_concerns_no_other_backend() {
    let web = cluster(&["a", "b"]);
    let fake = Fake::new(Answer::Fail);
    let only_a = {
        let fake = fake.clone();
        tower::service_fn(move |backend: Arc<Backend>| {
            let mut fake = fake.clone();
            async move {
                if &**backend.name() == "b" {
                    return Ok(Verdict::Pass);
                }
                fake.call(backend).await
            }
        })
    };
    let _checks = web.check(Checks::new(only_a));
    until_eligible(&web, 0, false, Instant::now()).await;
    assert!(web.table().is_eligible(1));
    assert_eq!(web.table().eligible_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_added_is_probed_and_what_is_removed_is_not_any_more() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()));
    sleep(secs(3)).await;
    assert!(!fake.times("a").is_empty() && !fake.times("b").is_empty());

    let c = backend("c", "127.0.0.1:3".parse().unwrap());
    web.update(|change| {
        let members = change.members_mut();
        members.remove(0);
        members.push(c);
    })
    .unwrap();
    sleep(Duration::from_millis(1)).await;
    fake.clear();
    sleep(secs(10)).await;

    assert_eq!(fake.times("a"), [0_u64; 0]);
    assert_eq!(fake.times("b").len(), 5, "what stays keeps its pace");
    assert_eq!(fake.times("c").len(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_out_and_put_back_is_probed_again() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()));
    sleep(secs(1)).await;
    let a = member(&web, 0);
    web.update(|change| change.replace_all([])).unwrap();
    sleep(secs(5)).await;
    assert_eq!(fake.times("a"), [0]);
    web.update(|change| change.add(a)).unwrap();
    sleep(secs(5)).await;
    let times = fake.times("a");
    assert!(times.len() >= 3, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_guard_ends_the_checks() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Hang));
    let checks = web.check(Checks::new(fake.clone()));
    // In the middle of a probe.
    sleep(Duration::from_millis(2500)).await;
    drop(checks);
    fake.clear();
    sleep(secs(60)).await;
    assert!(fake.seen.borrow().is_empty());
    assert_eq!(web.table().eligible_count(), 2, "nor is anything decided after that");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_guard_lets_the_checks_go_on() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    web.check(Checks::new(fake.clone())).forget();
    sleep(Duration::from_millis(5999)).await;
    assert_eq!(fake.times("a"), [0, 2000, 4000]);
}

#[tokio::test(start_paused = true)]
async fn new_checks_go_on_where_others_have_left_off() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let start = Instant::now();
    let checks = web.check(Checks::new(fake.clone()));
    until_eligible(&web, 0, false, start).await;
    drop(checks);
    sleep(secs(60)).await;
    assert!(!web.table().is_eligible(0), "down, and nobody to say otherwise");

    fake.answer(Answer::Pass);
    let start = Instant::now();
    let _checks = web.check(Checks::new(fake.clone()));
    sleep(secs(1)).await;
    assert!(!web.table().is_eligible(0), "one pass is not enough");
    assert_eq!(until_eligible(&web, 0, true, start).await / 10, 200);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_is_asked_again_an_interval_later() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Panic));
    let _checks = web.check(Checks::new(fake.clone()).fall(10));
    sleep(Duration::from_millis(4999)).await;
    assert_eq!(fake.times("a"), [0, 2000, 4000]);
}

#[tokio::test(start_paused = true)]
async fn no_setting_is_a_panic() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Pass));
    let checks = Checks::new(fake.clone()).every(Duration::MAX).timeout(Duration::MAX);
    let _checks = web.check(checks.rise(0).fall(0));
    sleep(secs(366 * 86_400)).await;
    assert_eq!((fake.times("a").len(), fake.times("b").len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_unfit_is_out_after_one_check_and_comes_back_by_rise() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let start = Instant::now();
    let _checks = web.check(Checks::new(fake.clone()).fall(10));
    sleep(secs(1)).await;
    fake.answer(Answer::Unfit);
    assert_eq!(until_eligible(&web, 0, false, start).await / 10, 200);
    sleep(secs(3)).await;
    fake.answer(Answer::Pass);
    // It was unfit at 2 and 4 s, and passes at 6 and 8 s.
    assert_eq!(until_eligible(&web, 0, true, start).await / 10, 800);
}

#[tokio::test(start_paused = true)]
async fn what_starts_down_is_not_eligible_before_the_checks_have_run() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake).init_state(InitState::Down));
    // Without a point at which another task could run.
    assert_eq!(web.table().eligible_count(), 0);
    web.update(|change| change.add(backend("c", "127.0.0.1:3".parse().unwrap()))).unwrap();
    assert_eq!(web.table().eligible_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_starts_down_is_probed_at_once_and_comes_up_with_its_first_pass() {
    let (web, fake) = (cluster(&["a", "b"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()).rise(5).init_state(InitState::Down));
    sleep(Duration::from_millis(10)).await;
    assert_eq!((fake.times("a"), fake.times("b")), (vec![0], vec![0]));
    assert_eq!(web.table().eligible_count(), 2);

    web.update(|change| change.add(backend("c", "127.0.0.1:3".parse().unwrap()))).unwrap();
    assert!(!web.table().is_eligible(2));
    assert_eq!(web.table().eligible_count(), 2, "what stays is not judged anew");
    sleep(Duration::from_millis(10)).await;
    assert!(web.table().is_eligible(2));
}

#[tokio::test(start_paused = true)]
async fn what_starts_fully_down_needs_all_of_rise() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let start = Instant::now();
    let _checks = web.check(Checks::new(fake).rise(3).init_state(InitState::FullyDown));
    assert_eq!(until_eligible(&web, 0, true, start).await / 10, 400);
}

#[tokio::test(start_paused = true)]
async fn what_starts_up_goes_down_with_its_first_failure() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let start = Instant::now();
    let _checks = web.check(Checks::new(fake).init_state(InitState::Up));
    assert!(web.table().is_eligible(0));
    assert_eq!(until_eligible(&web, 0, false, start).await / 10, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_out_and_put_back_at_once_starts_down_again() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()).init_state(InitState::Down));
    sleep(secs(1)).await;
    let a = member(&web, 0);
    // Before the checks have seen that it was gone.
    web.update(|change| change.replace_all([])).unwrap();
    web.update(|change| change.add(a)).unwrap();
    assert!(!web.table().is_eligible(0));
    sleep(Duration::from_millis(10)).await;
    assert!(web.table().is_eligible(0), "it was checked anew");
    assert_eq!(fake.times("a"), [0, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_from_before_it_was_put_back_does_not_count() {
    let web = cluster(&["a"]);
    let a = member(&web, 0);
    let rules = CheckRules { rise: 1, fall: 1, init: InitState::FullyDown, agent: false };
    let checks = web.attach(rules);
    let before = checks.say().token(&a).unwrap();
    web.update(|change| change.replace_all([])).unwrap();
    web.update(|change| change.add(Arc::clone(&a))).unwrap();
    assert_eq!(web.observe(&a, before, &Verdict::Pass), None);
    assert!(!web.table().is_eligible(0));
    assert!(web.observe(&a, checks.say().token(&a).unwrap(), &Verdict::Pass).is_some());
    assert!(web.table().is_eligible(0));
    let last = checks.say().token(&a).unwrap();
    drop(checks);
    assert_eq!(web.observe(&a, last, &Verdict::fail("no")), None, "its checks have ended");
    assert!(web.table().is_eligible(0));
}

#[tokio::test(start_paused = true)]
async fn without_checks_what_is_added_is_up_again() {
    let (web, fake) = (cluster(&[]), Fake::new(Answer::Pass));
    let checks = web.check(Checks::new(fake).init_state(InitState::Down));
    drop(checks);
    web.update(|change| change.add(backend("a", "127.0.0.1:3".parse().unwrap()))).unwrap();
    assert!(web.table().is_eligible(0));
}

#[tokio::test]
async fn a_tcp_probe_passes_where_something_listens() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let live = backend("live", listener.local_addr().unwrap());
    assert_eq!(DialProbe::new(TcpDial::new()).oneshot(live).await, Ok(Verdict::Pass));
    // It closes what it has dialled.
    let (mut accepted, _) = listener.accept().await.unwrap();
    assert_eq!(tokio::io::AsyncReadExt::read(&mut accepted, &mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_tcp_probe_fails_with_a_reason_where_nothing_listens() {
    let addr = refused_addr();
    let Ok(verdict) = DialProbe::new(TcpDial::new()).oneshot(backend("dead", addr)).await;
    let Verdict::Fail { reason } = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains(&addr.to_string()) && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_dial_service_that_is_broken_for_good_fails_the_probe_and_is_not_called() {
    // `Mock` panics when it is called though `poll_ready` has failed.
    let (mock, mut handle) = tower_test::mock::pair::<Arc<Backend>, ()>();
    handle.send_error("no licence");
    let Ok(verdict) = DialProbe::new(mock).oneshot(backend("a", refused_addr())).await;
    assert_eq!(verdict, Verdict::fail("no licence"));
}

#[tokio::test]
async fn tcp_checks_find_the_dead_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web = Cluster::builder("web")
        .backend("live", &listener.local_addr().unwrap().to_string())
        .backend("dead", &refused_addr().to_string())
        .build()
        .unwrap();
    let _checks = web.check(Checks::tcp().every(Duration::from_millis(5)).fall(1));
    until_eligible(&web, 1, false, Instant::now()).await;
    assert!(web.table().is_eligible(0));
}

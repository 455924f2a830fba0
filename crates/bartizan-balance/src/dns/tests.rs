use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use bartizan_net::Target;
use tokio::time::{Instant as Clock, sleep, timeout};

use super::memory::{Memory, News, Rules};
use super::*;
use crate::{Backend, Cluster};

const SECOND: Duration = Duration::from_secs(1);

const RULES: Rules = Rules { shortest: SECOND, longest: LONGEST, hold: HOLD };

type Addresses = Result<Found<IpAddr>, ResolveError>;

type Services = Result<Found<SrvRecord>, ResolveError>;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn start() -> Instant {
    Clock::now().into_std()
}

fn found(ips: &[&str], ttl: u64) -> Addresses {
    Ok(Found::new(ips.iter().map(|ip| ip.parse().unwrap()).collect(), secs(ttl)))
}

fn gone() -> Addresses {
    Err(ResolveError::NotFound { ttl: None })
}

fn broken() -> Addresses {
    Err(ResolveError::Failed("SERVFAIL".into()))
}

fn services<const N: usize>(records: [(u16, u16, u16, &str); N]) -> Services {
    let record = |(priority, weight, port, target): (_, _, _, &str)| {
        SrvRecord::new(priority, weight, port, target)
    };
    Ok(Found::new(records.map(record).into(), secs(60)))
}

/// What is followed without anybody who is asked.
fn follow(settings: DnsBackends) -> Follow {
    Follow::new(settings)
}

/// Takes in the IPv4 addresses of `host`.
fn learn(follow: &mut Follow, host: &str, answer: Addresses) -> Duration {
    follow.learn_addresses(&host.into(), Family::V4, answer, start())
}

/// Applies the changes to what is known of backends by now.
fn apply(known: &mut HashMap<Arc<str>, Arc<Backend>>, follow: &mut Follow) -> usize {
    let changes = follow.changes();
    let count = changes.len();
    for change in changes {
        match change {
            tower::discover::Change::Insert(key, backend) => drop(known.insert(key, backend)),
            tower::discover::Change::Remove(key) => drop(known.remove(&key).unwrap()),
        }
    }
    count
}

fn sorted(known: &HashMap<Arc<str>, Arc<Backend>>) -> Vec<String> {
    let mut names: Vec<_> = known.keys().map(|name| name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn records_hold_for_their_ttl_within_bounds() {
    for (ttl, again) in [(0, 1), (1, 1), (60, 60), (300, 300), (86_400, 300)] {
        let mut memory = Memory::default();
        let (pause, news) = memory.learn(found(&["192.0.2.1"], ttl), &RULES, start());
        assert_eq!(pause, secs(again), "TTL {ttl}");
        assert!(news.is_none());
    }
}

#[test]
fn a_failure_keeps_the_records_for_ever_and_is_told_once() {
    let (mut memory, now) = (Memory::default(), start());
    let _ = memory.learn(found(&["192.0.2.1"], 60), &RULES, now);
    for (turn, again) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
        let (pause, news) = memory.learn(broken(), &RULES, now + secs(86_400));
        assert_eq!(pause, secs(again));
        assert_eq!(matches!(news, Some(News::Failed(_))), turn == 0);
        assert_eq!(memory.records().len(), 1);
    }
    for _ in 0..100 {
        let _ = memory.learn(broken(), &RULES, now);
    }
    let (_, news) = memory.learn(found(&["192.0.2.1"], 60), &RULES, now);
    assert!(matches!(news, Some(News::Back)));
    let (pause, _) = memory.learn(broken(), &RULES, now);
    assert_eq!(pause, SECOND, "from the start again");
}

#[test]
fn a_name_that_is_gone_keeps_its_records_for_the_hold_time() {
    let (mut memory, now) = (Memory::default(), start());
    let _ = memory.learn(found(&["192.0.2.1"], 60), &RULES, now);
    let (pause, news) = memory.learn(gone(), &RULES, now);
    assert_eq!(pause, MISSING);
    assert!(matches!(news, Some(News::Missing)));
    let empty = found(&[], 60);
    let (pause, news) = memory.learn(empty, &RULES, now + secs(25));
    assert_eq!(pause, secs(5), "not later than the hold time is over");
    assert!(news.is_none());
    let _ = memory.learn(broken(), &RULES, now + secs(40));
    assert_eq!(memory.records().len(), 1, "a failure is no proof");
    let (_, news) = memory.learn(gone(), &RULES, now + HOLD);
    assert!(matches!(news, Some(News::Gone)));
    assert!(memory.records().is_empty());
    let (_, news) = memory.learn(gone(), &RULES, now + HOLD);
    assert!(news.is_none(), "told already");
}

#[test]
fn a_name_that_is_back_in_time_is_held_anew_the_next_time() {
    let (mut memory, now) = (Memory::default(), start());
    let _ = memory.learn(found(&["192.0.2.1"], 60), &RULES, now);
    let _ = memory.learn(gone(), &RULES, now);
    let (_, news) = memory.learn(found(&["192.0.2.2"], 60), &RULES, now + secs(20));
    assert!(matches!(news, Some(News::Back)));
    let _ = memory.learn(gone(), &RULES, now + secs(40));
    assert_eq!(memory.records().len(), 1);
}

#[test]
fn without_a_hold_time_what_is_gone_goes_at_once() {
    let mut memory = Memory::default();
    let rules = Rules { hold: Duration::ZERO, ..RULES };
    let _ = memory.learn(found(&["192.0.2.1"], 60), &rules, start());
    let _ = memory.learn(gone(), &rules, start());
    assert!(memory.records().is_empty());
}

#[test]
fn bounds_that_are_the_wrong_way_round_make_no_panic() {
    let rules = Rules { shortest: secs(9), longest: secs(3), hold: HOLD };
    let (pause, _) = Memory::default().learn(found(&["192.0.2.1"], 60), &rules, start());
    assert_eq!(pause, secs(3));
}

#[test]
fn addresses_become_backends_with_stable_names() {
    let limits = Limits::none().max(9);
    let mut follow = follow(DnsBackends::a("web.internal.", 80).weight(300).limits(limits));
    let mut known = HashMap::new();
    let twice = found(&["192.0.2.2", "192.0.2.1", "192.0.2.2"], 60);
    learn(&mut follow, "web.internal", twice);
    let v6 = found(&["2001:db8::1"], 60);
    follow.learn_addresses(&"web.internal".into(), Family::V6, v6, start());
    apply(&mut known, &mut follow);
    let names =
        ["web.internal/192.0.2.1:80", "web.internal/192.0.2.2:80", "web.internal/[2001:db8::1]:80"];
    assert_eq!(sorted(&known), names);
    let one = &known["web.internal/192.0.2.1:80"];
    let addr: SocketAddr = "192.0.2.1:80".parse().unwrap();
    assert_eq!(*one.address(), Address::from(addr));
    assert_eq!(one.server_name(), Some("web.internal"));
    assert_eq!((one.weight(), one.limits(), one.role()), (256, limits, Role::Active));

    let (one, order) = (Arc::clone(one), found(&["192.0.2.2", "192.0.2.1"], 60));
    learn(&mut follow, "web.internal", order);
    assert_eq!(apply(&mut known, &mut follow), 0, "the order does not count");
    learn(&mut follow, "web.internal", found(&["192.0.2.1", "192.0.2.3"], 60));
    assert_eq!(apply(&mut known, &mut follow), 2, "one goes, one comes");
    assert!(Arc::ptr_eq(&one, &known["web.internal/192.0.2.1:80"]));
    assert!(known.contains_key("web.internal/192.0.2.3:80"));
}

#[test]
fn one_family_that_fails_takes_nothing_from_the_other() {
    let mut follow = follow(DnsBackends::a("web.internal", 80));
    let mut known = HashMap::new();
    let host: Arc<str> = "web.internal".into();
    learn(&mut follow, &host, found(&["192.0.2.1"], 60));
    follow.learn_addresses(&host, Family::V6, found(&["2001:db8::1"], 60), start());
    apply(&mut known, &mut follow);
    learn(&mut follow, &host, found(&["192.0.2.9"], 60));
    follow.learn_addresses(&host, Family::V6, broken(), start());
    apply(&mut known, &mut follow);
    assert_eq!(sorted(&known), ["web.internal/192.0.2.9:80", "web.internal/[2001:db8::1]:80"]);
}

#[test]
fn addresses_that_lead_nowhere_are_left_out() {
    let mut follow = follow(DnsBackends::a("web.internal", 80));
    let ips = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "127.0.0.1"];
    learn(&mut follow, "web.internal", found(&ips, 60));
    let mut known = HashMap::new();
    apply(&mut known, &mut follow);
    assert_eq!(sorted(&known), ["web.internal/127.0.0.1:80"]);
}

#[test]
fn there_are_no_more_backends_than_may_be_and_those_that_are_stay() {
    let mut follow = follow(DnsBackends::a("web.internal", 80).max_backends(2));
    let mut known = HashMap::new();
    learn(&mut follow, "web.internal", found(&["192.0.2.7", "192.0.2.8"], 60));
    apply(&mut known, &mut follow);
    learn(&mut follow, "web.internal", found(&["192.0.2.1", "192.0.2.7", "192.0.2.8"], 60));
    assert_eq!(apply(&mut known, &mut follow), 0);
    learn(&mut follow, "web.internal", found(&["192.0.2.1", "192.0.2.2", "192.0.2.8"], 60));
    apply(&mut known, &mut follow);
    assert_eq!(sorted(&known), ["web.internal/192.0.2.1:80", "web.internal/192.0.2.8:80"]);
}

#[test]
fn services_have_priorities_weights_and_names_of_their_own() {
    let mut follow = follow(DnsBackends::srv("_http._tcp.web.internal"));
    let mut known = HashMap::new();
    let records = [
        (20, 5, 81, "c.internal"),
        (10, 0, 80, "a.internal"),
        (10, 7, 8080, "b.internal"),
        (30, 1, 80, "a.internal"), // Named twice: the lower priority counts.
        (10, 1, 0, "d.internal"),  // No port.
        (10, 1, 80, ""),           // Not to be had.
    ];
    follow.learn_services(services(records), start());
    let hosts = follow.hosts();
    assert_eq!(
        hosts,
        ["a.internal".into(), "b.internal".into(), "c.internal".into()] as [Arc<str>; 3]
    );
    for (host, ip) in hosts.iter().zip(["192.0.2.1", "192.0.2.2", "192.0.2.3"]) {
        learn(&mut follow, host, found(&[ip], 60));
    }
    apply(&mut known, &mut follow);
    let told = |backend: &Backend| {
        let server_name = backend.server_name().unwrap().to_owned();
        (server_name, backend.role(), backend.weight())
    };
    let name = |addr: &str| format!("_http._tcp.web.internal/{addr}");
    let of = |addr: &str| told(&known[name(addr).as_str()]);
    assert_eq!(known.len(), 3);
    assert_eq!(of("192.0.2.1:80"), ("a.internal".into(), Role::Active, 1));
    assert_eq!(of("192.0.2.2:8080"), ("b.internal".into(), Role::Active, 7));
    assert_eq!(of("192.0.2.3:81"), ("c.internal".into(), Role::Backup, 5));

    follow
        .learn_services(services([(10, 0, 80, "a.internal"), (20, 5, 81, "c.internal")]), start());
    assert_eq!(follow.hosts().len(), 2);
    assert_eq!(apply(&mut known, &mut follow), 1, "only b goes");
    follow.learn_services(services([(20, 5, 81, "c.internal")]), start());
    assert_eq!(follow.hosts().len(), 1);
    apply(&mut known, &mut follow);
    assert_eq!(known[name("192.0.2.3:81").as_str()].role(), Role::Active, "the lowest by now");
}

#[test]
fn backups_come_in_the_order_of_their_priority() {
    let mut follow = follow(DnsBackends::srv("_s._tcp.internal"));
    let records = [(30, 1, 3, "a.internal"), (9, 1, 1, "a.internal"), (20, 1, 2, "a.internal")];
    follow.learn_services(services(records), start());
    follow.hosts();
    learn(&mut follow, "a.internal", found(&["192.0.2.1"], 60));
    let port = |change: &tower::discover::Change<Arc<str>, Arc<Backend>>| match change {
        tower::discover::Change::Insert(_, backend) => backend.address().port(),
        tower::discover::Change::Remove(key) => panic!("{key} was not there"),
    };
    let ports: Vec<_> = follow.changes().iter().map(port).collect();
    assert_eq!(ports, [1, 2, 3]);
}

#[test]
fn large_weights_are_scaled_down_in_proportion() {
    let mut follow = follow(DnsBackends::srv("_s._tcp.internal"));
    let weights = [(1, 60_000, 1, "a"), (1, 30_000, 2, "a"), (1, 1, 3, "a"), (2, 100, 4, "a")];
    follow.learn_services(services(weights), start());
    follow.hosts();
    learn(&mut follow, "a", found(&["192.0.2.1"], 60));
    let mut known = HashMap::new();
    apply(&mut known, &mut follow);
    for (port, weight) in [(1, 256), (2, 128), (3, 1), (4, 100)] {
        let name = format!("_s._tcp.internal/192.0.2.1:{port}");
        assert_eq!(known[name.as_str()].weight(), weight, "port {port}");
    }
}

#[test]
fn targets_are_bounded_too() {
    let mut follow = follow(DnsBackends::srv("_s._tcp.internal").max_backends(1));
    follow.learn_services(services([(1, 1, 1, "b"), (2, 1, 1, "a")]), start());
    assert_eq!(follow.hosts(), ["b".into()] as [Arc<str>; 1]);
}

#[test]
fn names_that_are_none_are_refused() {
    for (name, what) in [("", "neither"), ("a b", "neither"), ("192.0.2.1", "is an address")] {
        let error = DnsBackends::a(name, 80).discover(Script::default()).unwrap_err().to_string();
        assert!(error.contains(what), "{name}: {error}");
    }
    assert!(DnsBackends::srv("_http._tcp.web.internal.").discover(Script::default()).is_ok());
}

/// A resolver that answers as it is told to, and then always as the last time.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Addresses>>,
    asked: Mutex<Vec<Clock>>,
}

impl Script {
    fn of<const N: usize>(answers: [Addresses; N]) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into()), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<Clock> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for Script {
    fn addresses(&self, _: &Arc<str>, family: Family) -> ResolveFuture<IpAddr> {
        if family == Family::V6 {
            return Box::pin(async { Err(ResolveError::NotFound { ttl: Some(LONGEST) }) });
        }
        self.asked.lock().unwrap().push(Clock::now());
        match self.answers.lock().unwrap().pop_front() {
            Some(answer) => Box::pin(async { answer }),
            None => Box::pin(std::future::pending()),
        }
    }

    fn services(&self, _: &Arc<str>) -> ResolveFuture<SrvRecord> {
        Box::pin(async { services([(1, 1, 8080, "web.internal")]) })
    }
}

impl Resolve for Arc<Script> {
    fn addresses(&self, name: &Arc<str>, family: Family) -> ResolveFuture<IpAddr> {
        (**self).addresses(name, family)
    }

    fn services(&self, name: &Arc<str>) -> ResolveFuture<SrvRecord> {
        (**self).services(name)
    }
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.table().members().iter().map(|member| member.name().to_string()).collect()
}

/// Lets `time` pass, and whatever it brings take effect.
async fn pass(time: Duration) {
    sleep(time + Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_name_is_asked_for_again_when_its_ttl_is_over() {
    let script = Script::of([found(&["192.0.2.1"], 10), found(&["192.0.2.2"], 10), broken()]);
    let web = Cluster::builder("web").build().unwrap();
    let names_of = DnsBackends::a("web.internal", 80).discover(Arc::clone(&script)).unwrap();
    let _following = web.follow(names_of);
    pass(secs(9)).await;
    assert_eq!(names(&web), ["web.internal/192.0.2.1:80"]);
    assert_eq!(script.asked().len(), 1);
    pass(secs(2)).await;
    assert_eq!(names(&web), ["web.internal/192.0.2.2:80"]);
    pass(secs(3_600)).await;
    assert_eq!(names(&web), ["web.internal/192.0.2.2:80"], "kept while nobody answers");
}

#[tokio::test(start_paused = true)]
async fn instances_do_not_ask_in_step() {
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let script = Script::of([found(&["192.0.2.1"], 100), found(&["192.0.2.1"], 100)]);
        let web = Cluster::builder("web").build().unwrap();
        let _following =
            web.follow(DnsBackends::a("web.internal", 80).discover(Arc::clone(&script)).unwrap());
        pass(secs(111)).await;
        let asked = script.asked();
        pauses.push(asked[1] - asked[0]);
    }
    assert!(pauses.iter().all(|pause| (secs(100)..=secs(110)).contains(pause)), "{pauses:?}");
    pauses.dedup();
    assert!(pauses.len() > 1, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_hangs_is_asked_again() {
    let script = Script::of([]);
    let web = Cluster::builder("web").build().unwrap();
    let _following =
        web.follow(DnsBackends::a("web.internal", 80).discover(Arc::clone(&script)).unwrap());
    timeout(secs(70), async {
        while script.asked().len() < 3 {
            sleep(SECOND).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn backends_that_stay_are_the_same_and_keep_what_the_operator_set() {
    let script = Script::of([
        found(&["192.0.2.1", "192.0.2.2"], 10),
        found(&["192.0.2.3", "192.0.2.1"], 10),
    ]);
    let web = Cluster::builder("web").backend("static", "127.0.0.1:1").build().unwrap();
    let _following =
        web.follow(DnsBackends::srv("_s._tcp.internal").discover(Arc::clone(&script)).unwrap());
    pass(secs(1)).await;
    let stays = Arc::clone(&web.table().members()[1]);
    web.update(|change| change.set_weight(stays.name(), 9)).unwrap();
    pass(secs(11)).await;
    let expected = ["static", "_s._tcp.internal/192.0.2.1:8080", "_s._tcp.internal/192.0.2.3:8080"];
    assert_eq!(names(&web), expected);
    assert!(Arc::ptr_eq(&stays, &web.table().members()[1]));
    assert_eq!(stays.weight(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stays_gone_loses_its_backends_after_the_hold_time() {
    let answers = [found(&["192.0.2.1"], 10), gone(), gone(), gone(), gone(), gone()];
    let script = Script::of(answers);
    let web = Cluster::builder("web").build().unwrap();
    let dns = DnsBackends::a("web.internal", 80).hold(secs(20));
    let _following = web.follow(dns.discover(Arc::clone(&script)).unwrap());
    pass(secs(29)).await;
    assert_eq!(names(&web).len(), 1, "held");
    pass(secs(11)).await;
    assert!(names(&web).is_empty());
}

#[test]
fn the_system_s_resolvers_can_be_read_and_named() {
    let server = "127.0.0.1:53".parse().unwrap();
    assert!(Resolver::with_nameserver(server).is_ok());
    if let Err(error) = Resolver::system() {
        assert!(error.to_string().contains("/etc/resolv.conf"), "{error}");
    }
}

/// Where nothing says for how long a name is missing.
const MISSING: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn nobody_may_be_a_backend_without_a_panic() {
    let script = Script::of([found(&["192.0.2.1"], 10), found(&["192.0.2.1"], 10)]);
    let web = Cluster::builder("web").build().unwrap();
    let dns = DnsBackends::a("web.internal", 80).max_backends(0);
    let mut discover = dns.discover(Arc::clone(&script)).unwrap();
    let next = std::future::poll_fn(|cx| {
        futures_core::Stream::poll_next(std::pin::Pin::new(&mut discover), cx)
    });
    assert!(timeout(secs(60), next).await.is_err());
    assert!(names(&web).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_longest_pause_of_nothing_floods_nobody() {
    let answers = std::array::from_fn::<_, 64, _>(|_| found(&["192.0.2.1"], 10));
    let script = Script::of(answers);
    let web = Cluster::builder("web").build().unwrap();
    let dns = DnsBackends::a("web.internal", 80).longest(Duration::ZERO);
    let start = Clock::now();
    let _following = web.follow(dns.discover(Arc::clone(&script)).unwrap());
    timeout(secs(5), async {
        while script.asked().len() < 64 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
}

/// Panics the first time, as a resolver of somebody's own may.
#[derive(Default)]
struct Panics(std::sync::atomic::AtomicU32);

impl Resolve for Panics {
    fn addresses(&self, _: &Arc<str>, _: Family) -> ResolveFuture<IpAddr> {
        Box::pin(async { found(&["192.0.2.1"], 10) })
    }

    fn services(&self, _: &Arc<str>) -> ResolveFuture<SrvRecord> {
        let times = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(times > 0, "the first time");
        Box::pin(async { services([(1, 1, 8080, "web.internal")]) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_over_services_is_asked_again() {
    let web = Cluster::builder("web").build().unwrap();
    let dns = DnsBackends::srv("_s._tcp.internal");
    let _following = web.follow(dns.discover(Panics::default()).unwrap());
    pass(secs(120)).await;
    assert_eq!(names(&web), ["_s._tcp.internal/192.0.2.1:8080"]);
}

/// Answers for IPv4 at once, and never for IPv6, as servers do that drop what they do not know.
struct HalfDeaf;

impl Resolve for HalfDeaf {
    fn addresses(&self, _: &Arc<str>, family: Family) -> ResolveFuture<IpAddr> {
        match family {
            Family::V4 => Box::pin(async { found(&["192.0.2.1"], 10) }),
            Family::V6 => Box::pin(std::future::pending()),
        }
    }

    fn services(&self, _: &Arc<str>) -> ResolveFuture<SrvRecord> {
        panic!("a resolver of somebody's own")
    }
}

#[tokio::test(start_paused = true)]
async fn one_family_that_hangs_does_not_hold_up_the_other() {
    let web = Cluster::builder("web").build().unwrap();
    let _following = web.follow(DnsBackends::a("web.internal", 80).discover(HalfDeaf).unwrap());
    pass(secs(3)).await;
    assert_eq!(names(&web), ["web.internal/192.0.2.1:80"]);
}

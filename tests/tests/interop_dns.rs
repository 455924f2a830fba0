//! Backends that follow a real DNS server, while its records change, and while it is gone.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan::balance::dns::{
    DnsBackends, Family, Resolve, ResolveError, ResolveFuture, Resolver, SrvRecord,
};
use bartizan::balance::{FollowGuard, Role};
use bartizan::net::Target;
use bartizan::prelude::*;
use bartizan_testkit::HttpBackend;
use bartizan_tests::{Dnsmasq, eventually};
use bytes::Bytes;
use http_body_util::Empty;
use tower::ServiceExt;

/// Far more than a test takes.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// Less than the TTL, so that it does not count.
const SOON: Duration = Duration::from_millis(20);

/// A resolver that counts what comes of questions for IPv4 addresses.
#[derive(Clone)]
struct Counting {
    resolver: Resolver,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    found: AtomicUsize,
    missing: AtomicUsize,
    failed: AtomicUsize,
    errors: Mutex<Vec<String>>,
}

impl Resolve for Counting {
    fn addresses(&self, name: &Arc<str>, family: Family) -> ResolveFuture<IpAddr> {
        let answer = self.resolver.addresses(name, family);
        if family == Family::V6 {
            return answer;
        }
        let counts = Arc::clone(&self.counts);
        Box::pin(async move {
            let answer = answer.await;
            let count = match &answer {
                Ok(_) => &counts.found,
                Err(ResolveError::NotFound { .. }) => &counts.missing,
                Err(error) => {
                    counts.errors.lock().unwrap().push(error.to_string());
                    &counts.failed
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
            answer
        })
    }

    fn services(&self, name: &Arc<str>) -> ResolveFuture<SrvRecord> {
        self.resolver.services(name)
    }
}

impl Counts {
    /// Waits until this has come out twice more: what was made of the first is to be seen then.
    async fn more(&self, what: impl Fn(&Self) -> &AtomicUsize) {
        let before = what(self).load(Ordering::Relaxed);
        let more = || what(self).load(Ordering::Relaxed) > before + 1;
        eventually("more answers", more).await;
    }
}

/// A cluster that follows these names as `server` knows them.
fn follow(server: &Dnsmasq, names: DnsBackends) -> (Cluster, Arc<Counts>, FollowGuard) {
    let counts = Arc::new(Counts::default());
    let resolver = Resolver::with_nameserver(server.addr()).unwrap();
    let resolver = Counting { resolver, counts: Arc::clone(&counts) };
    let cluster = Cluster::builder("web").build().unwrap();
    // dnsmasq says a second; a test need not wait for that.
    let names = names.shortest(SOON).longest(SOON);
    let following = cluster.follow(names.discover(resolver).unwrap());
    (cluster, counts, following)
}

fn names(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<_> =
        cluster.table().members().iter().map(|member| member.name().to_string()).collect();
    names.sort();
    names
}

async fn becomes(cluster: &Cluster, expected: &[&str]) {
    eventually(&format!("{expected:?}"), || names(cluster) == expected).await;
}

fn web() -> DnsBackends {
    DnsBackends::a("web.internal", 80)
}

#[tokio::test]
async fn backends_follow_the_records() {
    let server = Dnsmasq::start("192.0.2.1 web.internal\n192.0.2.9 other.internal\n", &[]).await;
    let (cluster, _, _following) = follow(&server, web());
    becomes(&cluster, &["web.internal/192.0.2.1:80"]).await;
    let stays = Arc::clone(&cluster.table().members()[0]);
    assert_eq!(stays.server_name(), Some("web.internal"));
    server.hosts("192.0.2.1 web.internal\n192.0.2.2 web.internal\n2001:db8::1 web.internal\n");
    let three =
        ["web.internal/192.0.2.1:80", "web.internal/192.0.2.2:80", "web.internal/[2001:db8::1]:80"];
    becomes(&cluster, &three).await;
    assert_eq!(cluster.table().members()[0].id(), stays.id());
    server.hosts("2001:db8::1 web.internal\n");
    // Without a single address of one kind, those are held for a while.
    let (cluster, _, _following) = follow(&server, web().hold(Duration::ZERO));
    becomes(&cluster, &["web.internal/[2001:db8::1]:80"]).await;
}

#[tokio::test]
async fn a_server_that_is_gone_takes_no_backend_with_it() {
    let mut server = Dnsmasq::start("192.0.2.1 web.internal\n", &[]).await;
    let (cluster, counts, _following) = follow(&server, web().hold(Duration::ZERO));
    becomes(&cluster, &["web.internal/192.0.2.1:80"]).await;
    server.kill();
    counts.more(|counts| &counts.failed).await;
    assert_eq!(names(&cluster), ["web.internal/192.0.2.1:80"]);
    server.restart().await;
    counts.more(|counts| &counts.found).await;
    assert_eq!(names(&cluster), ["web.internal/192.0.2.1:80"]);
    server.hosts("192.0.2.2 web.internal\n");
    becomes(&cluster, &["web.internal/192.0.2.2:80"]).await;
}

#[tokio::test]
async fn a_server_that_refuses_to_answer_takes_no_backend_with_it() {
    let server = Dnsmasq::start("192.0.2.1 web.test\n", &[]).await;
    let test = DnsBackends::a("web.test", 80).hold(Duration::ZERO);
    let (cluster, counts, _following) = follow(&server, test);
    becomes(&cluster, &["web.test/192.0.2.1:80"]).await;
    // It knows nobody to ask for names that are not its own.
    server.hosts("");
    counts.more(|counts| &counts.failed).await;
    assert_eq!(names(&cluster), ["web.test/192.0.2.1:80"]);
    let errors = counts.errors.lock().unwrap().clone();
    assert!(errors.iter().any(|error| error.contains("efused")), "{errors:?}");
}

#[tokio::test]
async fn a_name_that_is_gone_keeps_its_backends_for_the_hold_time() {
    let server = Dnsmasq::start("192.0.2.1 web.internal\n", &[]).await;
    let (held, counts, _following) = follow(&server, web().hold(FOR_EVER));
    let (dropped, _, _following) = follow(&server, web().hold(Duration::from_millis(100)));
    becomes(&held, &["web.internal/192.0.2.1:80"]).await;
    becomes(&dropped, &["web.internal/192.0.2.1:80"]).await;
    server.hosts("");
    becomes(&dropped, &[]).await;
    counts.more(|counts| &counts.missing).await;
    assert_eq!(names(&held), ["web.internal/192.0.2.1:80"]);
    server.hosts("192.0.2.1 web.internal\n");
    becomes(&dropped, &["web.internal/192.0.2.1:80"]).await;
}

#[tokio::test]
async fn an_answer_that_fits_into_no_datagram_is_read_as_a_whole() {
    let hosts: String = (1..=200).map(|n| format!("192.0.2.{n} web.internal\n")).collect();
    let server = Dnsmasq::start(&hosts, &[]).await;
    let (cluster, _, _following) = follow(&server, web());
    eventually("200 backends", || names(&cluster).len() == 200).await;
    let (cluster, _, _following) = follow(&server, web().max_backends(150));
    eventually("150 backends", || names(&cluster).len() == 150).await;
}

const SERVICE: &str = "_http._tcp.web.internal";

#[tokio::test]
async fn services_bring_ports_weights_and_roles() {
    let srv = |host: &str, port, priority, weight| {
        Dnsmasq::srv(SERVICE, &format!("{host}.internal"), port, priority, weight)
    };
    let hosts = "192.0.2.1 a.internal\n192.0.2.2 b.internal\n192.0.2.3 c.internal\n";
    let options = [srv("a", 81, 10, 5), srv("b", 82, 10, 0), srv("c", 83, 20, 7)];
    let mut server = Dnsmasq::start(hosts, &options).await;
    let (cluster, _, _following) = follow(&server, DnsBackends::srv(SERVICE));
    let told = || -> BTreeMap<String, (String, Role, u16)> {
        let table = cluster.table();
        let of = |member: &Arc<Backend>| {
            let server_name = member.server_name().unwrap().to_owned();
            let addr = member.address().to_string();
            (addr, (server_name, member.role(), member.weight()))
        };
        table.members().iter().map(of).collect()
    };
    let of = |name: &str, role: Role, weight: u16| (name.to_owned(), role, weight);
    let a = ("192.0.2.1:81".to_owned(), of("a.internal", Role::Active, 5));
    let b = ("192.0.2.2:82".to_owned(), of("b.internal", Role::Active, 1));
    let c = ("192.0.2.3:83".to_owned(), of("c.internal", Role::Backup, 7));
    let all = BTreeMap::from([a, b.clone(), c.clone()]);
    eventually("three", || told() == all).await;
    let heavier = ("192.0.2.1:81".to_owned(), of("a.internal", Role::Active, 9));
    let id_of_a = || {
        let table = cluster.table();
        let a = table.members().iter().find(|member| member.address().port() == 81);
        a.map(|member| member.id())
    };
    let before = id_of_a();
    server.kill();
    server.set_options(&[srv("a", 81, 10, 9), srv("b", 82, 10, 0), srv("c", 83, 20, 7)]);
    server.restart().await;
    let all = BTreeMap::from([heavier, b, c]);
    eventually("another weight", || told() == all).await;
    assert_eq!(id_of_a(), before, "it is the same backend");
}

#[tokio::test]
async fn requests_go_where_the_records_say() {
    let [one, two] = [HttpBackend::start("one").await, HttpBackend::start("two").await];
    let srv = |of: &HttpBackend| Dnsmasq::srv(SERVICE, "a.internal", of.addr().port(), 1, 1);
    let mut server = Dnsmasq::start("127.0.0.1 a.internal\n", &[srv(&one)]).await;
    let (cluster, _, _following) = follow(&server, DnsBackends::srv(SERVICE));
    eventually("a backend", || names(&cluster).len() == 1).await;
    let pool = HttpPoolLayer::new().pool::<_, Empty<Bytes>>(TcpDial::new());
    let balance = Balance::new(cluster.clone(), RoundRobin::new(), pool);
    let ask = || async {
        let request = http::Request::get("/").header("host", "web.internal");
        let answer = balance.clone().oneshot(request.body(Empty::new()).unwrap()).await.unwrap();
        answer.headers()["x-backend"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask().await, "one");
    server.kill();
    assert_eq!(ask().await, "one", "without a DNS server");
    server.set_options(&[srv(&two)]);
    server.restart().await;
    let port = two.addr().port();
    becomes(&cluster, &[&format!("{SERVICE}/127.0.0.1:{port}")]).await;
    assert_eq!(ask().await, "two");
}

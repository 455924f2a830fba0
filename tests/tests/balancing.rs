//! Who gets which request: every policy, weights, backups, limits, and stickiness, from outside.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::tcp::{TcpBackend, client_hello, connect, connect_from};
use bartizan_tests::{Answer, Client, Http, Proxy, Site, empty, eventually, request_as};
use futures_util::future::select_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Three backends, and a proxy that gives each of them these options.
struct Scene {
    site: Site,
    backends: Vec<HttpBackend>,
    proxy: Proxy,
}

impl Scene {
    async fn new(options: [&str; 3], flags: &[&str]) -> Self {
        let mut backends = Vec::new();
        for name in ["web1", "web2", "web3"] {
            backends.push(HttpBackend::start(name).await);
        }
        let site = Site::new();
        let mut args = site.args(&[]);
        args.extend(["--workers", "1"].map(str::to_owned));
        for (backend, options) in backends.iter().zip(options) {
            let backend = format!("{}={}{options}", backend.name(), backend.addr());
            args.extend(["--backend".to_owned(), backend]);
        }
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let proxy = Proxy::start(&args);
        Self { site, backends, proxy }
    }

    async fn client(&self, http: Http) -> Client {
        Client::connect(&self.site, &self.proxy, http).await
    }

    fn counts(&self) -> Vec<u64> {
        self.backends.iter().map(HttpBackend::requests).collect()
    }

    async fn stop(&mut self, name: &str) {
        let at = self.backends.iter().position(|backend| backend.name() == name).unwrap();
        self.backends.remove(at).stop().await;
    }
}

async fn ask(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.ask(request_as("GET", path, headers, empty())).await.unwrap()
}

/// The request's cookie that the answer sets.
fn set_cookie(answer: &Answer) -> Option<String> {
    let line = answer.headers.get("set-cookie")?.to_str().unwrap();
    Some(line.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn weights_are_exact_and_a_weight_of_0_gets_nothing() {
    for http in Http::BOTH {
        let scene = Scene::new([",weight=1", ",weight=2", ",weight=5"], &[]).await;
        let mut client = scene.client(http).await;
        for _ in 0..80 {
            client.get("/").await;
        }
        assert_eq!(scene.counts(), [10, 20, 50]);
    }
    let scene = Scene::new([",weight=0", ",weight=3", ",weight=3"], &[]).await;
    let mut client = scene.client(Http::One).await;
    for _ in 0..20 {
        client.get("/").await;
    }
    assert_eq!(scene.counts(), [0, 10, 10]);
}

#[tokio::test]
async fn every_policy_serves_and_spares_nobody_for_good() {
    for policy in ["roundrobin", "leastconn", "random", "p2c", "ewma", "random,draws=3"] {
        let scene = Scene::new(["", "", ""], &["--balance", policy]).await;
        let mut client = scene.client(Http::Two).await;
        for _ in 0..90 {
            assert_eq!(client.get("/").await.status, 200, "{policy}");
        }
        assert_eq!(scene.counts().iter().sum::<u64>(), 90, "{policy}");
        assert!(scene.counts().iter().all(|count| *count > 0), "{policy}: {:?}", scene.counts());
    }
    for (policy, expected) in [("leastconn", [30, 30, 30]), ("first", [90, 0, 0])] {
        let scene = Scene::new(["", "", ""], &["--balance", policy]).await;
        let mut client = scene.client(Http::Two).await;
        for _ in 0..90 {
            client.get("/").await;
        }
        assert_eq!(scene.counts(), expected, "{policy}");
    }
}

#[tokio::test]
async fn the_same_key_gets_to_the_same_backend_and_others_elsewhere() {
    let header = |n: u32| ("/".to_owned(), format!("x-user: {n}"));
    let cookie = |n: u32| ("/".to_owned(), format!("cookie: a=b; id={n}"));
    let query = |n: u32| (format!("/?x=1&user={n}"), "x-a: b".to_owned());
    let uri = |n: u32| (format!("/status/200/{n}?x"), "x-a: b".to_owned());
    for (policy, key, request) in [
        ("ring", "header:x-user", &header as &dyn Fn(u32) -> _),
        ("ring,ketama", "cookie:id", &cookie),
        ("ring,bounded=150", "query:user", &query),
        ("maglev", "uri", &uri),
        ("rendezvous", "header:x-user", &header),
        ("rendezvous,tree", "cookie:id", &cookie),
    ] {
        let scene = Scene::new(["", "", ""], &["--balance", policy, "--hash-key", key]).await;
        let mut client = scene.client(Http::Two).await;
        let mut homes = BTreeMap::new();
        for round in 0..2 {
            for n in 0..24 {
                let (path, header) = request(n);
                let before = scene.counts();
                ask(&mut client, &path, &[header.split_once(": ").unwrap()]).await;
                let after = scene.counts();
                let home = (0..3).find(|i| after[*i] > before[*i]).unwrap();
                let known = *homes.entry(n).or_insert(home);
                assert_eq!(known, home, "{policy} {key} {n}, round {round}");
            }
        }
        let used: HashSet<_> = homes.values().collect();
        assert_eq!(used.len(), 3, "{policy} {key}: {homes:?}");
    }
}

#[tokio::test]
async fn a_backup_serves_only_when_the_others_are_gone() {
    let check = ["--check", "tcp", "--check-interval", "50ms", "--fall", "1"];
    let mut scene = Scene::new(["", "", ",backup"], &check).await;
    let mut client = scene.client(Http::One).await;
    for _ in 0..10 {
        assert_ne!(client.get("/").await.backend(), "web3");
    }
    scene.stop("web1").await;
    scene.stop("web2").await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.backend(), "web3");
    }
}

#[tokio::test]
async fn no_backend_gets_more_than_its_limit_and_nobody_is_lost() {
    let full = [",maxconn=1", ",maxconn=1,weight=0", ",maxconn=1,weight=0"];
    let scene = Scene::new(full, &["--queue", "20s"]).await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let mut client = scene.client(Http::One).await;
        tasks.push(tokio::spawn(async move { client.get("/slow/20").await.status }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(scene.counts(), [20, 0, 0]);
    assert_eq!(scene.backends[0].connections(), 1, "never two at a time");
}

#[tokio::test]
async fn who_waits_too_long_for_a_slot_gets_503() {
    let scene = Scene::new([",maxconn=1", ",weight=0", ",weight=0"], &["--queue", "300ms"]).await;
    let mut first = scene.client(Http::One).await;
    let busy = tokio::spawn(async move { first.get("/slow/2000").await.status });
    let backend = &scene.backends[0];
    eventually("the first request is there", || backend.requests() == 1).await;
    let mut second = scene.client(Http::One).await;
    let start = Instant::now();
    assert_eq!(second.get("/").await.status, 503);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(busy.await.unwrap(), 200);
    assert_eq!(second.get("/").await.status, 200);
}

#[tokio::test]
async fn a_source_stays_with_its_backend_and_moves_when_that_dies() {
    let mut scene = Scene::new(["", "", ""], &["--sticky", "source"]).await;
    let mut home = String::new();
    for http in [Http::One, Http::Two, Http::One] {
        let mut client = scene.client(http).await;
        for _ in 0..10 {
            let backend = client.get("/").await.backend().to_owned();
            if home.is_empty() {
                home.clone_from(&backend);
            }
            assert_eq!(backend, home);
        }
    }
    scene.stop(&home.clone()).await;
    let mut client = scene.client(Http::One).await;
    let second = client.get("/").await.backend().to_owned();
    assert_ne!(second, home);
    for _ in 0..10 {
        assert_eq!(client.get("/").await.backend(), second, "it is pinned anew");
    }
}

#[tokio::test]
async fn simultaneous_first_requests_of_a_source_agree() {
    for policy in ["roundrobin", "leastconn", "random"] {
        let scene = Scene::new(["", "", ""], &["--sticky", "source", "--balance", policy]).await;
        let mut tasks = Vec::new();
        for _ in 0..16 {
            let mut client = scene.client(Http::One).await;
            tasks.push(tokio::spawn(async move { client.get("/slow/100").await.status }));
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), 200);
        }
        let used = scene.counts().iter().filter(|count| **count > 0).count();
        assert_eq!(used, 1, "{policy}: {:?}", scene.counts());
    }
}

#[tokio::test]
async fn a_cookie_keeps_a_client_and_is_set_anew_when_its_backend_dies() {
    let cookie = "cookie:SRV,indirect,nocache";
    let mut scene = Scene::new(["", "", ""], &["--sticky", cookie]).await;
    let mut client = scene.client(Http::Two).await;
    let first = client.get("/").await;
    let (home, token) = (first.backend().to_owned(), set_cookie(&first).unwrap());
    assert!(token.starts_with("SRV="), "{token}");
    assert_eq!(first.header("cache-control"), "private");
    let line = first.header("set-cookie");
    for part in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
        assert!(line.contains(part), "{line}");
    }
    for _ in 0..10 {
        let answer = ask(&mut client, "/headers", &[("cookie", &token)]).await;
        assert_eq!((answer.backend(), set_cookie(&answer)), (&*home, None));
        let at = scene.backends.iter().find(|backend| backend.name() == home).unwrap();
        assert_eq!(at.seen().pop().unwrap().header("cookie"), None, "it is taken off");
    }
    let forged = ask(&mut client, "/", &[("cookie", "SRV=web1")]).await;
    assert!(set_cookie(&forged).is_some());
    scene.stop(&home.clone()).await;
    let moved = ask(&mut client, "/", &[("cookie", &token)]).await;
    let (second, next) = (moved.backend().to_owned(), set_cookie(&moved).unwrap());
    assert!(second != home && next != token);
    for _ in 0..5 {
        assert_eq!(ask(&mut client, "/", &[("cookie", &next)]).await.backend(), second);
    }
}

#[tokio::test]
async fn who_is_pinned_to_a_dead_backend_is_refused_if_that_was_asked_for() {
    let flags = ["--sticky", "source,on-down=fail", "--check", "tcp", "--check-interval", "50ms"];
    let mut scene = Scene::new(["", "", ""], &flags).await;
    let mut client = scene.client(Http::One).await;
    let home = client.get("/").await.backend().to_owned();
    scene.stop(&home).await;
    let log = || scene.proxy.stderr();
    eventually("the check finds out", || log().contains("is down")).await;
    assert_eq!(client.get("/").await.status, 503);
}

/// Three backends that TLS passes through to, and the proxy before them.
async fn passing(flags: &[&str]) -> (Vec<TcpBackend>, Proxy) {
    let mut backends = Vec::new();
    let mut args = ["--mode", "passthrough", "--workers", "1"].map(str::to_owned).to_vec();
    for _ in 0..3 {
        let backend = TcpBackend::listen().await;
        args.extend(["--backend".to_owned(), backend.addr().to_string()]);
        backends.push(backend);
    }
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let proxy = Proxy::start(&args);
    (backends, proxy)
}

/// Where a connection that begins with these bytes ends up.
async fn home_of(backends: &[TcpBackend], mut client: TcpStream, bytes: &[u8]) -> usize {
    client.write_all(bytes).await.unwrap();
    let accepted = backends.iter().map(|backend| Box::pin(backend.accept()));
    let (mut passed, home, _) = select_all(accepted).await;
    let mut first = vec![0; bytes.len()];
    passed.read_exact(&mut first).await.unwrap();
    assert_eq!(first, bytes);
    home
}

#[tokio::test]
async fn connections_that_pass_stay_with_a_backend_by_their_source() {
    let (backends, proxy) = passing(&["--sticky", "source"]).await;
    let mut homes = BTreeMap::new();
    for _ in 0..3 {
        for last in 1..=6 {
            let client = connect_from([127, 0, 0, last].into(), proxy.addr()).await;
            let home = home_of(&backends, client, b"hello").await;
            assert_eq!(*homes.entry(last).or_insert(home), home, "127.0.0.{last}");
        }
    }
    let used: Vec<_> =
        (0..3).map(|at| homes.values().filter(|home| **home == at).count()).collect();
    assert_eq!(used, [2, 2, 2], "those who were not known took turns");
}

#[tokio::test]
async fn connections_that_pass_go_by_the_name_that_they_ask_for() {
    let site = Site::new();
    let (backends, proxy) = passing(&["--balance", "ring", "--hash-key", "sni"]).await;
    let mut homes = BTreeMap::new();
    for name in ["a.example", "b.example", "A.example", "c.example", "d.example", "b.example"] {
        let hello = client_hello(&site, Some(name));
        let home = home_of(&backends, connect(proxy.addr()).await, &hello).await;
        assert_eq!(*homes.entry(name.to_lowercase()).or_insert(home), home, "{name}");
    }
    let used: HashSet<_> = homes.values().collect();
    assert!(used.len() > 1, "{homes:?}");
}

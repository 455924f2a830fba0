//! Checks of what real servers say of their health, and of servers that say it badly.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use bartizan_testkit::{Fault, HttpBackend, Leaf, Misbehaving, refused_addr};
use bartizan_tests::{
    Agent, Client, GrpcHealth, Http, Nginx, Presents, Proxy, SecureBackend, Site, eventually,
    within,
};
use tokio::time::interval;

/// Checked ten times a second, with patience for a busy machine.
const CHECKED: [&str; 8] =
    ["--check-interval", "100ms", "--check-timeout", "1s", "--fall", "2", "--rise", "2"];

/// A proxy in front of backends with these names, which are checked like this.
fn checking(site: &Site, check: &str, backends: &[(&str, SocketAddr)], flags: &[&str]) -> Proxy {
    let named: Vec<_> = backends.iter().map(|(name, addr)| format!("{name}={addr}")).collect();
    let named = named.iter().flat_map(|backend| ["--backend", backend]);
    let flags: Vec<_> = named.chain(["--check", check]).chain(flags.iter().copied()).collect();
    site.proxy(&[], &[&flags[..], &CHECKED].concat())
}

async fn told(proxy: &Proxy, words: &[&str]) {
    eventually(&format!("{words:?} in the log"), || proxy.said(words) > 0).await;
}

/// Why the last change came about, says the log.
fn last_reason(proxy: &Proxy) -> String {
    let log = proxy.stderr();
    let line = log.lines().rfind(|line| line.contains("backend is")).unwrap();
    line.split_once("reason=").unwrap().1.to_owned()
}

#[tokio::test]
async fn what_nginx_answers_at_a_path_of_its_own_decides() {
    let site = Site::new();
    let [addr, other] = [refused_addr(), refused_addr()];
    let dir = site.dir().path().display();
    let server = |addr: SocketAddr, name: &str| {
        format!(
            "server {{ listen {addr};
            location / {{ return 200 \"{name}\\n\"; }}
            location /health {{
                if (-f {dir}/{name}.gone) {{ return 404; }}
                if (-f {dir}/{name}.sick) {{ return 503; }}
                return 200 \"ok\\n\";
            }} }}\n"
        )
    };
    let servers = server(addr, "one") + &server(other, "two");
    let _nginx = Nginx::with("nginx", &servers, "").await;
    let proxy = checking(&site, "http:/health", &[("one", addr), ("two", other)], &[]);
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    for (round, (file, status)) in [("one.sick", "503"), ("one.gone", "404")].iter().enumerate() {
        let path = site.dir().write(file, "");
        let down = || proxy.said(&["backend is down", "backend=one"]) > round;
        eventually("the fall", down).await;
        assert!(last_reason(&proxy).contains(status), "{}", last_reason(&proxy));
        for _ in 0..10 {
            assert_eq!(client.get("/").await.text(), "two\n");
        }
        fs::remove_file(path).unwrap();
        let up = || proxy.said(&["backend is up", "backend=one"]) > round;
        eventually("the rise", up).await;
        let answers = [client.get("/").await, client.get("/").await];
        assert!(answers.iter().any(|answer| answer.text() == "one\n"), "it is back");
    }
    assert_eq!(proxy.said(&["backend is down", "backend=two"]), 0);
}

#[tokio::test]
async fn a_grpc_service_is_asked_for_by_name_and_the_server_as_a_whole_without_one() {
    let site = Site::new();
    let mut server = GrpcHealth::start();
    server.set("my.Service", true);
    let start = |check: &str| {
        checking(&site, check, &[("grpc", server.addr())], &["--backend-proto", "h2"])
    };
    let (whole, service) = (start("grpc"), start("grpc:my.Service"));
    let unknown = start("grpc:no.such.Service");
    told(&unknown, &["backend is down"]).await;
    for (name, asks, other) in [("my.Service", &service, &whole), ("-", &whole, &service)] {
        let before = other.stderr().len();
        server.set(name, false);
        told(asks, &["backend is down"]).await;
        server.set(name, true);
        told(asks, &["backend is up"]).await;
        let since = &other.stderr()[before..];
        assert!(!since.contains("backend is"), "{name} is none of its business: {since}");
    }
}

/// It is served with nevertheless, until it has ended.
#[tokio::test]
async fn a_certificate_that_ends_tomorrow_is_told_once() {
    #[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let site = Site::new();
    let ends = site.ca().issue(Leaf::server("localhost").not_after(tomorrow));
    let lasts = site.ca().issue(Leaf::server("localhost"));
    let ends = SecureBackend::start("ends", &Presents::new(&ends)).await;
    let lasts = SecureBackend::start("lasts", &Presents::new(&lasts)).await;
    let ca = site.ca_file().to_str().unwrap();
    let flags = ["--mode", "reencrypt", "--backend-ca", ca, "--backend-name", "localhost"];
    let backends = [("ends", ends.addr()), ("lasts", lasts.addr())];
    let proxy = checking(&site, "tls", &backends, &flags);
    let warned = |name: &str, backend: &SecureBackend| {
        let addr = backend.addr().to_string();
        let log = proxy.stderr();
        let of_it = |line: &&str| line.contains(name) || line.contains(&addr);
        let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("expire"));
        warnings.filter(of_it).count()
    };
    eventually("a warning", || warned("ends", &ends) > 0).await;
    let before = ends.handshakes().0;
    eventually("more checks", || ends.handshakes().0 >= before + 10).await;
    assert_eq!((warned("ends", &ends), warned("lasts", &lasts)), (1, 0));
    assert_eq!(proxy.said(&["backend is down"]), 0);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    let mut names = [client.get("/").await, client.get("/").await].map(|a| a.text().to_owned());
    names.sort();
    assert!(names[0].contains("ends") && names[1].contains("lasts"), "{names:?}");
}

#[tokio::test]
async fn who_accepts_and_hangs_passes_a_look_at_tcp_and_no_request() {
    let site = Site::new();
    let (tcp, http) =
        (Misbehaving::start(Fault::Hang).await, Misbehaving::start(Fault::Hang).await);
    let by_tcp = checking(&site, "tcp", &[("hangs", tcp.addr())], &[]);
    let by_http = checking(&site, "http:/", &[("hangs", http.addr())], &[]);
    told(&by_http, &["backend is down", "hangs"]).await;
    tcp.until(|counts| counts.connections >= 10).await;
    assert_eq!(by_tcp.said(&["backend is down"]), 0);
}

/// Down and up again three times, one second each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_flaps_every_second_costs_nothing_and_each_change_is_told() {
    let site = Site::new();
    let (mut flaps, steady) = (HttpBackend::start("flaps").await, HttpBackend::start("b").await);
    let addr = flaps.addr();
    let proxy = checking(&site, "http:/", &[("flaps", addr), ("steady", steady.addr())], &[]);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    let load = tokio::spawn(async move {
        loop {
            assert_eq!(client.get("/").await.status, 200);
        }
    });
    let mut ticks = interval(Duration::from_secs(1));
    ticks.tick().await;
    for _ in 0..3 {
        flaps.stop().await;
        ticks.tick().await;
        flaps = HttpBackend::start_on(addr, "flaps").await;
        ticks.tick().await;
    }
    assert!(!load.is_finished(), "a GET has failed: {:?}", load.await);
    load.abort();
    let log = proxy.stderr();
    let of_it = |line: &&str| line.contains("backend is") && line.contains("backend=flaps");
    let changes = log.lines().filter(of_it);
    let ups: Vec<_> = changes.map(|line| line.contains("backend is up")).collect();
    assert!(!ups.is_empty(), "{log}");
    for (number, up) in ups.iter().enumerate() {
        assert_eq!(*up, number % 2 == 1, "down and up by turns: {log}");
    }
    assert_eq!(proxy.said(&["backend is", "steady"]), 0);
}

const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How many of the next 175 requests this backend answers.
async fn share(client: &mut Client, name: &str) -> usize {
    let mut share = 0;
    for _ in 0..175 {
        share += usize::from(client.get("/").await.backend() == name);
    }
    share
}

/// Two backends of different addresses, because the port of agents is one for all.
#[tokio::test]
async fn an_agent_sets_the_weight_and_drains_stops_and_brings_back_its_backend() {
    let site = Site::new();
    let plain = HttpBackend::start("plain").await;
    let other = HttpBackend::start_on((THERE, 0).into(), "agent").await;
    let agent = Agent::start("ready up 100%").await;
    let check = format!("agent:{}", agent.port());
    let of = |backend: &HttpBackend| format!("{}={},weight=100", backend.name(), backend.addr());
    let (one, two) = (of(&plain), of(&other));
    let flags = ["--workers", "1", "--check", &check, "--backend", &one, "--backend", &two];
    let proxy = site.proxy(&[], &[&flags[..], &CHECKED].concat());
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    // What it says, and the least and the most of 175 requests that its backend gets then.
    let steps = [
        ("75%", 74..=76),
        ("drain", 0..=0),
        ("ready 100%", 86..=89),
        ("maint", 0..=0),
        ("ready", 86..=89),
        ("down", 0..=0),
        ("up", 86..=89),
        ("stopped #for the night", 0..=0),
        ("up", 86..=89),
    ];
    for (reply, expected) in steps {
        agent.say(THERE, reply);
        let mut got = usize::MAX;
        // Until it has been asked; a check is due every 100 ms.
        let obeyed = async {
            while !expected.contains(&got) {
                got = share(&mut client, "agent").await;
            }
        };
        let what = format!("{expected:?} of 175 requests after {reply:?}");
        within(Duration::from_secs(30), &what, obeyed).await;
    }
    assert_eq!(proxy.said(&["backend is down", "agent"]), 2);
    assert_eq!(proxy.said(&["backend is", "plain"]), 0);
}

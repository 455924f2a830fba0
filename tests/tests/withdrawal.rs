//! Open connections of clients whose certificates are good no more.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::{Duration, SystemTime};

use bartizan_testkit::{Crl, HttpBackend, Leaf, Minted, TestCa};
use bartizan_tests::raw::{GOAWAY, Raw};
use bartizan_tests::{Http, Proxy, Site, Visitor, empty, eventually, request, within};
use http_body_util::BodyExt;
use tokio::time::Instant;

/// The longest that a connection is left, and some more for a busy machine.
const LIMIT: Duration = Duration::from_secs(10 + 3);

/// How long it is left at least.
const LEAST: Duration = Duration::from_secs(5);

struct Scene {
    site: Site,
    clients: TestCa,
    backend: HttpBackend,
    proxy: Proxy,
}

impl Scene {
    async fn new() -> Self {
        let (site, clients) = (Site::new(), TestCa::new("clients"));
        let ca = site.dir().write("clients.pem", clients.cert_pem());
        let crl = site.dir().write("clients.crl", clients.crl(Crl::new()));
        let backend = HttpBackend::start("web").await;
        let (ca, crl) = (ca.to_str().unwrap(), crl.to_str().unwrap());
        let flags = ["--client-auth", "optional", "--client-ca", ca, "--client-crl", crl];
        let proxy = site.proxy(&[backend.addr()], &flags);
        Self { site, clients, backend, proxy }
    }

    fn visitor(&self, identity: &Minted) -> Visitor {
        Visitor::new(self.site.ca(), "localhost").showing(identity)
    }

    async fn raw(&self, identity: &Minted, http: Http) -> Raw {
        Raw::over(self.visitor(identity).handshake(&self.proxy, http).await.unwrap())
    }

    fn revoke(&self, identity: &Minted) {
        let crl = self.clients.crl(Crl::new().revoke(identity));
        self.site.dir().write("clients.crl", crl);
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Asks over an open HTTP/1.1 connection, and says whether the answer was the last.
async fn last_answer(raw: &mut Raw) -> bool {
    raw.write(GET).await.unwrap();
    raw.read_until("web\n").await.to_lowercase().contains("connection: close")
}

#[tokio::test]
async fn a_revoked_client_s_connections_end_and_others_go_on() {
    let scene = Scene::new().await;
    let (alice, mallory) =
        (scene.clients.issue(Leaf::client("alice")), scene.clients.issue(Leaf::client("mallory")));
    let mut good: Vec<_> = Vec::new();
    for http in Http::BOTH {
        good.push(scene.visitor(&alice).open(&scene.proxy, http).await.unwrap());
        let nobody = Visitor::new(scene.site.ca(), "localhost");
        good.push(nobody.open(&scene.proxy, http).await.unwrap());
    }
    for client in &mut good {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Idle in HTTP/1.1 and HTTP/2, with one request behind them and without any.
    let mut idle = scene.raw(&mallory, Http::One).await;
    assert!(!last_answer(&mut idle).await);
    let mut unused = scene.raw(&mallory, Http::One).await;
    let mut idle_h2 = scene.raw(&mallory, Http::Two).await;
    idle_h2.start_h2().await;
    idle_h2.get_h2(1, "/").await;
    // In the middle of answers that take longer than there is.
    let mut busy = Vec::new();
    for http in Http::BOTH {
        let mut client = scene.visitor(&mallory).open(&scene.proxy, http).await.unwrap();
        let sent = tokio::spawn(async move {
            let response = client.send(request("GET", "/slow/60000", empty())).await;
            let ended = Instant::now();
            (client, response.map(|r| r.status()), ended)
        });
        busy.push(sent);
    }
    // And of one that is soon there.
    let mut soon = scene.visitor(&mallory).open(&scene.proxy, Http::One).await.unwrap();
    scene.backend.until(|c| c.requests >= 8).await;
    let soon = tokio::spawn(async move { soon.get("/slow/2000").await });
    scene.backend.until(|c| c.requests >= 9).await;

    let begun = Instant::now();
    scene.revoke(&mallory);
    assert_eq!(soon.await.unwrap().header("connection"), "close", "asked to end");
    assert_eq!(idle.read_to_end(LIMIT).await, "");
    assert_eq!(unused.read_to_end(LIMIT).await, "");
    let mut goodbye = false;
    while let Some(frame) = within(LIMIT, "the end", idle_h2.frame()).await {
        goodbye |= frame.kind == GOAWAY;
    }
    assert!(goodbye, "HTTP/2 says GOAWAY");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    for (busy, http) in busy.into_iter().zip(Http::BOTH) {
        let (_client, response, ended) = within(LIMIT, "the end", busy).await.unwrap();
        let took = ended - begun;
        assert!(response.is_err(), "{http:?} cut: {response:?}");
        assert!(took >= LEAST && took < LIMIT, "{http:?} after {took:?}");
    }
    for client in &mut good {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(scene.visitor(&mallory).visit(&scene.proxy).await.is_err());
    let log = || scene.proxy.stderr();
    let said = || log().contains("trusted no more") && log().contains("withdrawn=6");
    eventually("a line in the log", said).await;
}

#[tokio::test]
async fn a_revoked_client_that_keeps_asking_is_told_to_go() {
    let scene = Scene::new().await;
    let mallory = scene.clients.issue(Leaf::client("mallory"));
    let mut raw = scene.raw(&mallory, Http::One).await;
    assert!(!last_answer(&mut raw).await);
    scene.revoke(&mallory);
    let begun = Instant::now();
    // Between two requests it may be closed without an answer, as any idle connection.
    while raw.write(GET).await.is_ok() {
        let answer = raw.read_some().await.to_lowercase();
        if answer.is_empty() || answer.contains("connection: close") {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "served on and on");
    }
    assert!(begun.elapsed() < LIMIT);
}

#[tokio::test]
async fn without_their_authority_all_of_its_clients_go() {
    let scene = Scene::new().await;
    let alice = scene.clients.issue(Leaf::client("alice"));
    let (mut one, mut two) =
        (scene.raw(&alice, Http::One).await, scene.raw(&alice, Http::Two).await);
    assert!(!last_answer(&mut one).await);
    two.start_h2().await;
    two.get_h2(1, "/").await;
    scene.backend.until(|c| c.requests >= 2).await;
    let others = TestCa::new("others");
    scene.site.dir().write("clients.crl", others.crl(Crl::new()));
    scene.site.dir().write("clients.pem", others.cert_pem());
    let begun = Instant::now();
    assert_eq!(one.read_to_end(LIMIT).await, "");
    while within(LIMIT, "the end", two.frame()).await.is_some() {}
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_expired_client_s_connection_ends() {
    let scene = Scene::new().await;
    #[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
    let now = SystemTime::now();
    let life = Duration::from_secs(4);
    let brief = scene.clients.issue(Leaf::client("brief").not_after(now + life));
    let begun = Instant::now();
    let (mut one, mut two) =
        (scene.raw(&brief, Http::One).await, scene.raw(&brief, Http::Two).await);
    assert!(!last_answer(&mut one).await);
    two.start_h2().await;
    two.get_h2(1, "/").await;
    let mut busy = scene.visitor(&brief).open(&scene.proxy, Http::Two).await.unwrap();
    let response = busy.send(request("GET", "/b/1000000000", empty())).await.unwrap();
    assert_eq!(one.read_to_end(life + LIMIT).await, "");
    assert!(begun.elapsed() >= life - Duration::from_secs(1), "{:?}", begun.elapsed());
    let mut goodbye = false;
    while let Some(frame) = within(LIMIT, "the end", two.frame()).await {
        goodbye |= frame.kind == GOAWAY;
    }
    assert!(goodbye, "HTTP/2 says GOAWAY");
    // It reads nothing for as long as it may.
    let rest = within(life + LIMIT, "the rest", async {
        busy.closed().await.ok();
        response.into_body().collect().await
    });
    assert!(rest.await.is_err(), "cut");
    assert!(begun.elapsed() < life + LIMIT, "{:?}", begun.elapsed());
    let said = || scene.proxy.stderr().contains("the client's certificate has expired");
    eventually("a line in the log", said).await;
}

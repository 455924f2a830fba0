//! The PROXY protocol with HAProxy and nginx, as senders and as receivers.
//!
//! HAProxy 2.6 and nginx 1.22 write and read both versions, but nginx writes version 1 alone. Of
//! TLVs, HAProxy shows the authority and the unique id; nginx shows none before 1.23.2.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan::balance::Cluster;
use bartizan::net::{
    AcceptProxyLayer, Conn, ProxyCommand, ProxyHeader, ProxyVersion, Replay, SendProxy, TunnelLayer,
};
use bartizan::prelude::{Balance, CertStore, RoundRobin, TcpDial, TlsTerminateLayer, serve};
use bartizan::tls::ClientAuth;
use bartizan_testkit::{HttpBackend, Leaf, refused_addr};
use bartizan_tests::program::{curl, run};
use bartizan_tests::{Haproxy, Nginx, Proxy, Site, eventually, free_addr};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, service_fn};

const SOON: Duration = Duration::from_secs(30);

/// Where curl connects from over IPv4. Everybody else does from 127.0.0.1.
const CLIENT: &str = "127.0.0.7";

/// How HAProxy is told to send headers to a server.
const HAPROXY_SENDS: [&str; 5] = [
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id,ssl,cert-cn,ssl-cipher",
];

/// Runs curl, which takes every name for the one port of `addr`.
fn ask(site: &Site, addr: SocketAddr, args: &[&str]) -> String {
    let to = format!("::{addr}");
    let family = if addr.is_ipv4() { &["--interface", CLIENT][..] } else { &["-6"] };
    let args = [&["--fail", "--connect-to", &to][..], family, args].concat();
    tokio::task::block_in_place(|| curl(site, SOON, &args))
}

/// The address that curl connects from to `addr`.
fn client_of(addr: SocketAddr) -> &'static str {
    if addr.is_ipv4() { CLIENT } else { "::1" }
}

/// What a receiver tells of curl's connection to `addr`, and `more`; then the port that curl itself
/// tells after that.
fn ends(addr: SocketAddr, told: &str, more: &str) -> String {
    let port = told.lines().last().unwrap_or_default();
    format!("{} {port} {} {}{more}\n{port}", client_of(addr), addr.ip(), addr.port())
}

/// A port of IPv4 and one of IPv6.
fn both_families() -> [SocketAddr; 2] {
    [free_addr(Ipv4Addr::LOCALHOST), free_addr(Ipv6Addr::LOCALHOST)]
}

/// Programs that pass connections on, and send a header ahead.
struct Senders {
    _haproxy: Haproxy,
    _nginx: Nginx,
    /// What each port of theirs is.
    ports: Vec<(String, SocketAddr)>,
}

impl Senders {
    async fn start(to: SocketAddr) -> Self {
        let (mut haproxy, mut nginx, mut ports) = (String::new(), String::new(), Vec::new());
        for addr in both_families() {
            write!(nginx, "server {{ listen {addr}; proxy_pass {to}; proxy_protocol on; }}")
                .unwrap();
            ports.push(("nginx".to_owned(), addr));
        }
        for (n, options) in HAPROXY_SENDS.into_iter().enumerate() {
            for addr in both_families() {
                let name = format!("sends{n}_{}", addr.port());
                write!(haproxy, "listen {name}\n    bind {addr}\n    unique-id-format %ci_%cp\n")
                    .unwrap();
                writeln!(haproxy, "    server to {to} {options}").unwrap();
                ports.push((options.to_owned(), addr));
            }
        }
        Self {
            _haproxy: Haproxy::start(&haproxy).await,
            _nginx: Nginx::with("sends", "", &nginx).await,
            ports,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_others_send_are_forwarded_where_tls_ends() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--accept-proxy", "127.0.0.0/8"]);
    let senders = Senders::start(proxy.addr()).await;
    for (sender, addr) in &senders.ports {
        for flag in ["--http1.1", "--http2"] {
            let seen = ask(&site, *addr, &[flag, "https://localhost/headers"]).to_lowercase();
            let field = format!("x-forwarded-for: {}\n", client_of(*addr));
            assert!(seen.contains(&field), "{sender}: {seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_others_send_are_sent_on() {
    let site = Site::new();
    let certs = certs_of_pass_test(&site);
    let [plain, tls] = std::array::from_fn(|_| refused_addr());
    let _nginx = Nginx::with("receives", &nginx_receives(plain, tls, &certs), "").await;
    for version in ["v1", "v2"] {
        let accept = ["--accept-proxy", "127.0.0.0/8"];
        let proxy = sending(&site, version, plain, tls, &accept);
        let senders = Senders::start(proxy.addr()).await;
        for (sender, addr) in &senders.ports {
            for host in ["localhost", "pass.test"] {
                let url = format!("https://{host}/");
                let told = ask(&site, *addr, &["-w", "%{local_port}", &url]);
                assert_eq!(told, ends(*addr, &told, ""), "{sender} {host} {version}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_without_a_header_is_not_served_where_one_is_needed() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--accept-proxy", "127.0.0.0/8"]);
    let addr = refused_addr();
    let config = format!("listen silent\n    bind {addr}\n    server to {}\n", proxy.addr());
    let _haproxy = Haproxy::start(&config).await;
    let out = site.dir().join("out");
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "-k", "-o"]).arg(out).arg(format!("https://{addr}/"));
    let ended = tokio::task::block_in_place(|| run(&mut command, SOON));
    assert!(!ended.status.success());
    assert_eq!(backend.requests(), 0);
    eventually("a line in the log", || proxy.stderr().contains("PROXY header not read")).await;
}

/// A server made of the library, and the headers that connections to it began with.
async fn listener() -> (SocketAddr, Arc<Mutex<Vec<Arc<ProxyHeader>>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let headers = Arc::clone(&heard);
    let service = service_fn(move |mut conn: Conn<Replay<TcpStream>>| {
        headers.lock().unwrap().push(Arc::clone(conn.info().proxy_header().unwrap()));
        async move {
            let (io, mut read) = (conn.io_mut(), Vec::new());
            while !read.ends_with(b"\r\n\r\n") {
                read.push(io.read_u8().await?);
            }
            io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            io.shutdown().await
        }
    });
    let accept = AcceptProxyLayer::new().required("127.0.0.0/8".parse().unwrap());
    tokio::spawn(serve(listener, accept.layer(service)).into_future());
    (addr, heard)
}

/// The header of the only connection since the last look.
fn only(heard: &Mutex<Vec<Arc<ProxyHeader>>>) -> Arc<ProxyHeader> {
    let mut heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1, "{heard:?}");
    heard.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_haproxy_tells_of_a_client_is_read() {
    let site = Site::new();
    let alice = site.dir().write("alice.pem", site.ca().issue(Leaf::client("alice")).bundle_pem());
    let (to, heard) = listener().await;
    let (full, none) = (refused_addr(), refused_addr());
    let (certs, ca) = (site.certs().display(), site.ca_file().display());
    let all = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id";
    let bind = format!("ssl crt {certs} ca-file {ca} verify optional alpn http/1.1");
    let config = format!(
        "listen full
    bind {full} {bind}
    unique-id-format id-%ci-%cp
    server to {to} send-proxy-v2 proxy-v2-options {all}
listen none
    bind {none} {bind}
    server to {to} send-proxy
"
    );
    let _haproxy = Haproxy::start(&config).await;
    for (version, cipher) in [("1.2", "ECDHE-"), ("1.3", "TLS_")] {
        for cert in [&["--cert", alice.to_str().unwrap()][..], &[]] {
            let tls = ["--http1.1", "--tls-max", version, "-w", "%{local_port}"];
            let args = [&tls[..], cert, &["https://localhost/"]].concat();
            let port: u16 = ask(&site, full, &args).parse().unwrap();
            let header = only(&heard);
            let client = SocketAddr::new(CLIENT.parse().unwrap(), port);
            assert_eq!(header.version(), ProxyVersion::V2);
            assert_eq!(header.command(), ProxyCommand::Proxy);
            assert_eq!(header.endpoints(), Some((client, full)));
            assert!(header.has_crc32c());
            assert_eq!(header.unique_id(), Some(format!("id-{CLIENT}-{port}").as_bytes()));
            assert_eq!(header.authority(), Some("localhost"));
            assert_eq!(header.alpn(), Some(&b"http/1.1"[..]));
            let ssl = header.ssl().unwrap();
            let shown = !cert.is_empty();
            assert!(ssl.is_tls());
            assert_eq!(ssl.version(), Some(&*format!("TLSv{version}")));
            assert!(ssl.cipher().unwrap().starts_with(cipher), "{ssl:?}");
            assert_eq!(ssl.key_algorithm(), Some("EC256"));
            assert_eq!(ssl.signature_algorithm(), Some("ecdsa-with-SHA256"));
            assert_eq!(ssl.common_name(), shown.then_some("alice"));
            assert_eq!((ssl.has_cert_conn(), ssl.has_cert_session()), (shown, shown));
            assert_eq!((ssl.verify(), ssl.is_verified()), (0, shown));

            let port: u16 = ask(&site, none, &args).parse().unwrap();
            let header = only(&heard);
            let client = SocketAddr::new(CLIENT.parse().unwrap(), port);
            assert_eq!(header.version(), ProxyVersion::V1);
            assert_eq!(header.endpoints(), Some((client, none)));
            assert_eq!(header.tlvs().count(), 0);
        }
    }
}

/// HAProxy that reads headers: before HTTP in the clear, and before TLS.
fn haproxy_receives(plain: SocketAddr, tls: SocketAddr, certs: &Path) -> String {
    let certs = certs.display();
    format!(
        "frontend plain
    mode http
    bind {plain} accept-proxy
    {HAPROXY_TELLS}
frontend tls
    mode http
    bind {tls} accept-proxy ssl crt {certs} alpn h2,http/1.1
    {HAPROXY_TELLS}
"
    )
}

/// nginx that does.
fn nginx_receives(plain: SocketAddr, tls: SocketAddr, certs: &Path) -> String {
    let plain = format!("server {{ listen {plain} proxy_protocol; {NGINX_TELLS} }}\n");
    let listen = format!("{tls} ssl http2 proxy_protocol");
    plain + &Nginx::tls_server(&listen, certs, NGINX_TELLS)
}

/// Starts a proxy that ends TLS for `localhost`, passes it on for `pass.test` and sends headers.
fn sending(
    site: &Site,
    version: &str,
    plain: SocketAddr,
    tls: SocketAddr,
    flags: &[&str],
) -> Proxy {
    let route = format!("pass.test=pass:{tls}");
    let send = ["--send-proxy", version, "--route", &route];
    site.proxy(&[plain], &[&send[..], flags].concat())
}

fn certs_of_pass_test(site: &Site) -> PathBuf {
    site.dir().write("pass/pass.pem", site.ca().issue(Leaf::server("pass.test")).bundle_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_and_nginx_read_what_the_proxy_sends() {
    let site = Site::new();
    let certs = certs_of_pass_test(&site);
    let [a, b, c, d] = std::array::from_fn(|_| refused_addr());
    let _haproxy = Haproxy::start(&haproxy_receives(a, b, &certs)).await;
    let _nginx = Nginx::with("receives", &nginx_receives(c, d, &certs), "").await;
    for (plain, tls) in [(a, b), (c, d)] {
        for version in ["v1", "v2"] {
            for listen in ["127.0.0.1:0", "[::1]:0"] {
                let proxy = sending(&site, version, plain, tls, &["--listen", listen]);
                let addr = proxy.addr();
                for host in ["localhost", "pass.test"] {
                    for http in ["--http1.1", "--http2"] {
                        let url = format!("https://{host}/");
                        let told = ask(&site, addr, &[http, "-w", "%{local_port}", &url]);
                        let more = if plain == a { "  " } else { "" };
                        assert_eq!(told, ends(addr, &told, more), "{host} {version} {http}");
                    }
                }
            }
        }
    }
}

/// A server made of the library: ends TLS, and tells `to` all that it knows of the client.
async fn tells_all(site: &Site, to: SocketAddr) -> SocketAddr {
    let send = SendProxy::v2()
        .authority(true)
        .crc32c(true)
        .unique_id(|info| Some(Bytes::from(format!("id-{}", info.peer().port()))))
        .ssl(true)
        .cert_cn(true)
        .ssl_cipher(true)
        .client_cert(true)
        .tlv(OWN_TLV, b"of our own")
        .unwrap();
    let certs = CertStore::builder()
        .path(site.certs())
        .alpn(["http/1.1"])
        .client_auth(ClientAuth::optional(site.ca_file()))
        .watch()
        .unwrap();
    let cluster = Cluster::builder("to").backend("to", &to.to_string()).build().unwrap();
    let tunnel = TunnelLayer::new().send_proxy(send).layer(TcpDial::new());
    let balance = Balance::new(cluster, RoundRobin::new(), tunnel);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, TlsTerminateLayer::new(certs).layer(balance)).into_future());
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_and_nginx_read_a_header_with_everything_in_it() {
    let site = Site::new();
    let alice = site.dir().write("alice.pem", site.ca().issue(Leaf::client("alice")).bundle_pem());
    let [a, b, c, d] = std::array::from_fn(|_| refused_addr());
    let _haproxy = Haproxy::start(&haproxy_receives(a, b, site.certs())).await;
    let _nginx = Nginx::with("receives", &nginx_receives(c, d, site.certs()), "").await;
    for (to, shows_tlvs) in [(a, true), (c, false)] {
        let addr = tells_all(&site, to).await;
        for version in ["1.2", "1.3"] {
            for cert in [&["--cert", alice.to_str().unwrap()][..], &[]] {
                let tls = ["--tls-max", version, "-w", "%{local_port}"];
                let told = ask(&site, addr, &[&tls[..], cert, &["https://localhost/"]].concat());
                let port = told.lines().last().unwrap_or_default();
                let tlvs = format!(" localhost id-{port}");
                assert_eq!(told, ends(addr, &told, if shows_tlvs { &tlvs } else { "" }));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_haproxy_tells_is_relayed_to_the_next() {
    let site = Site::new();
    let [first, plain, tls] = std::array::from_fn(|_| refused_addr());
    let cluster = Cluster::builder("to").backend("to", &plain.to_string()).build().unwrap();
    let send = SendProxy::v2().relay(true).crc32c(true);
    let tunnel = TunnelLayer::new().send_proxy(send).layer(TcpDial::new());
    let balance = Balance::new(cluster, RoundRobin::new(), tunnel);
    let accept = AcceptProxyLayer::new().required("127.0.0.0/8".parse().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, accept.layer(balance)).into_future());
    let sends = format!(
        "listen first
    bind {first} ssl crt {} alpn http/1.1
    unique-id-format first-%cp
    server to {to} send-proxy-v2 proxy-v2-options ssl,authority,unique-id,crc32c\n",
        site.certs().display()
    );
    let receives = haproxy_receives(plain, tls, site.certs());
    let _haproxy = Haproxy::start(&(sends + &receives)).await;
    let told = ask(&site, first, &["-w", "%{local_port}", "https://localhost/"]);
    let port = told.lines().last().unwrap_or_default();
    assert_eq!(told, ends(first, &told, &format!(" localhost first-{port}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_s_checks_pass_and_the_proxy_s_log_stays_clean() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let ends = site.proxy(&[backend.addr()], &["--accept-proxy", "127.0.0.0/8"]);
    let (_web, web) = Nginx::tls("web", site.certs()).await;
    let web = web.to_string();
    let mode = ["--mode", "passthrough", "--accept-proxy", "127.0.0.0/8"];
    let passes = Proxy::start(&[&mode[..], &["--backend", &web]].concat());
    let mut config = String::new();
    let over_tls = "check-ssl check-sni localhost verify none";
    for (name, proxy) in [("ends", &ends), ("passes", &passes)] {
        let addr = proxy.addr();
        // To connect is all that a check at layer 4 does; one at layer 7 needs an answer.
        write!(config, "backend {name}\n    option log-health-checks\n    option httpchk GET /\n")
            .unwrap();
        for send in ["send-proxy", "send-proxy-v2"] {
            let check = "check check-send-proxy inter 2s";
            writeln!(config, "    server {name}_{send} {addr} {send} {check} {over_tls}").unwrap();
        }
        write!(config, "backend {name}4\n    option log-health-checks\n").unwrap();
        for send in ["send-proxy", "send-proxy-v2"] {
            let check = "check check-send-proxy inter 2s";
            writeln!(config, "    server {name}4_{send} {addr} {send} {check}").unwrap();
        }
    }
    let haproxy = Haproxy::start(&config).await;
    for name in ["ends", "passes"] {
        for send in ["send-proxy", "send-proxy-v2"] {
            let of = |server: &str, what: &str| {
                let log = haproxy.log();
                log.lines().any(|line| line.contains(server) && line.contains(what))
            };
            let (seven, four) = (format!("/{name}_{send} "), format!("/{name}4_{send} "));
            eventually("a check", || of(&seven, "Layer7 check passed, code: 200")).await;
            eventually("a check", || of(&four, "Layer4 check passed")).await;
        }
    }
    // Each server has been asked again by then.
    eventually("more checks", || backend.requests() >= 4).await;
    for proxy in [ends, passes] {
        let log = proxy.stderr();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        assert!(!log.contains("PROXY header"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_with_a_header_leave_nothing_in_the_logs_of_haproxy_and_nginx() {
    let site = Site::new();
    let certs = certs_of_pass_test(&site);
    let checks = ["--check", "tcp", "--check-interval", "50ms", "--rise", "3", "--fall", "1"];
    let checks = [&checks[..], &["--check-timeout", "10s"]].concat();
    for version in ["v1", "v2"] {
        let [a, b, c, d] = std::array::from_fn(|_| refused_addr());
        let proxies = [(a, b), (c, d)].map(|(a, b)| sending(&site, version, a, b, &checks));
        for proxy in &proxies {
            eventually("two backends down", || proxy.stderr().matches(" down ").count() == 2).await;
        }
        let haproxy = Haproxy::start(&haproxy_receives(a, b, &certs)).await;
        let nginx = Nginx::with("receives", &nginx_receives(c, d, &certs), "").await;
        for proxy in &proxies {
            // Three checks of each have passed then.
            let up = || proxy.stderr().matches("backend is up").count() >= 2;
            eventually("two backends up", up).await;
            for url in ["https://localhost/", "https://pass.test/"] {
                let told = ask(&site, proxy.addr(), &[url]);
                assert!(told.starts_with(CLIENT), "{told}");
            }
        }
        assert_eq!(nginx.errors(), "");
        // That the checks of its TLS port end before a handshake, it logs whoever makes them.
        assert!(!haproxy.log().contains("PROXY"), "{}", haproxy.log());
        // HAProxy would say so.
        let other = site.proxy(&[a], &checks);
        eventually("a line in the log", || haproxy.log().contains("PROXY")).await;
        drop(other);
    }
}

/// In the range for private use.
const OWN_TLV: u8 = 0xe0;

/// What HAProxy writes of a connection that began with a header: its ends and two TLVs. It does not
/// look at others.
const HAPROXY_TELLS: &str = concat!(
    "http-request return status 200 content-type text/plain lf-string \"",
    "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\\n\"",
);

/// What nginx writes of one, in the same form.
const NGINX_TELLS: &str = concat!(
    "location / { return 200 \"$proxy_protocol_addr $proxy_protocol_port ",
    "$proxy_protocol_server_addr $proxy_protocol_server_port\\n\"; }",
);

//! TLS that passes through, between curl, OpenSSL and h2load and servers of nginx; beside nginx and
//! HAProxy, which route by the same names.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bartizan_testkit::{HttpBackend, Leaf, refused_addr};
use bartizan_tests::program::{curl, run, run_with};
use bartizan_tests::{Ended, Haproxy, Nginx, Proxy, Site, eventually};

const SOON: Duration = Duration::from_secs(30);

/// 50 MB through an unoptimised build on a busy machine.
const LATE: Duration = Duration::from_secs(120);

const LARGE: usize = 50_000_000;

const VERSIONS: [(&str, &str); 2] = [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")];

/// A certificate for all of `names`, in a file.
fn bundle(site: &Site, names: &[&str]) -> PathBuf {
    let leaf = names[1..].iter().fold(Leaf::server(names[0]), |leaf, name| leaf.dns(name));
    site.dir().write(format!("{}.pem", names[0]), site.ca().issue(leaf).bundle_pem())
}

/// Starts a proxy with these flags alone.
fn passing(flags: &[&str]) -> Proxy {
    Proxy::start(&[&["--mode", "passthrough"][..], flags].concat())
}

fn pass(name: &str, addrs: &[SocketAddr]) -> String {
    let addrs: Vec<_> = addrs.iter().map(SocketAddr::to_string).collect();
    format!("{name}=pass:{}", addrs.join(","))
}

/// Runs curl, which takes every name for the one port of `addr`.
fn ask(site: &Site, addr: SocketAddr, limit: Duration, args: &[&str]) -> String {
    let to = format!("::{addr}");
    let args = [&["--fail", "--connect-to", &to][..], args].concat();
    tokio::task::block_in_place(|| curl(site, limit, &args))
}

/// Sends one request with `openssl s_client`.
fn s_client(site: &Site, addr: SocketAddr, args: &[&str]) -> Ended {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &addr.to_string(), "-ign_eof", "-verify_return_error"]);
    command.arg("-CAfile").arg(site.ca_file()).args(args);
    let input = b"GET / HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n\r\n";
    tokio::task::block_in_place(|| run_with(&mut command, input, SOON))
}

/// The answer's body, which is its last line.
fn body(ended: &Ended) -> &str {
    let answer = ended.stdout.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    answer.lines().next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_tls_reach_the_server_as_the_client_sends_them() {
    let site = Site::new();
    let (_named, named) = Nginx::tls("named", &bundle(&site, &["named.test"])).await;
    let (_other, other) = Nginx::tls("other", &bundle(&site, &["other.test"])).await;
    let proxy = passing(&[
        "--route",
        &pass("named.test", &[named]),
        "--backend",
        &other.to_string(),
        "--check",
        "tcp",
    ]);
    let with = ["-servername", "named.test", "-verify_hostname", "named.test"];
    let without = ["-noservername", "-verify_hostname", "other.test"];
    for (flag, version) in VERSIONS {
        for (sni, who) in [(&with[..], "named named.test"), (&without[..], "other ")] {
            let args = [&[flag][..], sni].concat();
            let ended = s_client(&site, proxy.addr(), &args);
            assert!(ended.stdout.contains("Verification: OK"), "{}", ended.stdout);
            assert_eq!(body(&ended), format!("{who} {version} "));
            let http = s_client(&site, proxy.addr(), &[&args[..], &["-alpn", "http/1.1"]].concat());
            assert_eq!(body(&http), format!("{who} {version} http/1.1"));
            // What the server agrees on is what it says to the client.
            for (offered, agreed) in [("h2", "h2"), ("http/1.1,h2", "h2"), ("h3,h2", "h2")] {
                let ended =
                    s_client(&site, proxy.addr(), &[&args[..], &["-alpn", offered]].concat());
                let line = format!("ALPN protocol: {agreed}\n");
                assert!(ended.stdout.contains(&line), "{offered}: {}", ended.stdout);
                assert!(ended.stdout.contains("Verification: OK"), "{}", ended.stdout);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_port_terminates_one_name_passes_another_to_a_pair_and_refuses_a_third() {
    let (site, backend) = (Site::new(), HttpBackend::start("plain").await);
    let shared = bundle(&site, &["shared.test"]);
    let (_web1, web1) = Nginx::tls("web1", &shared).await;
    let (_web2, web2) = Nginx::tls("web2", &shared).await;
    let route = pass("shared.test", &[web1, web2]);
    let routes = ["--route", &route, "--route", "refused.test=reject"];
    let flags = [&routes[..], &["--route", "ended.test=terminate", "--workers", "1"]].concat();
    let ended = bundle(&site, &["ended.test"]);
    let proxy = site.proxy_of(&[&ended], backend.addr(), &flags);
    for (flag, alpn) in [("--http1.1", "http/1.1"), ("--http2", "h2")] {
        for max in ["1.2", "1.3"] {
            let tls = [flag, "--tls-max", max];
            let ask = |args: &[&str]| ask(&site, proxy.addr(), SOON, &[&tls[..], args].concat());
            assert_eq!(ask(&["https://ended.test/"]), "plain\n");
            let mut answers = [ask(&["https://shared.test/"]), ask(&["https://shared.test/"])];
            answers.sort();
            for (answer, web) in answers.iter().zip(["web1", "web2"]) {
                assert_eq!(*answer, format!("{web} shared.test TLSv{max} {alpn}\n"));
            }
            // A connection that ends here is not for a name that passes.
            let mut command = Command::new("curl");
            command.args(["-q", "-sS", "--noproxy", "*", "--cacert"]).arg(site.ca_file()).args(tls);
            command.args(["-o", "/dev/null", "-w", "%{response_code}"]);
            command.args(["--connect-to", &format!("::{}", proxy.addr())]);
            let mut wrong = Command::new("curl");
            wrong.args(command.get_args()).args(["-H", "Host: shared.test", "https://ended.test/"]);
            let answer = tokio::task::block_in_place(|| run(&mut wrong, SOON));
            assert_eq!(answer.stdout, "421", "{}", answer.stderr);
            command.arg("https://refused.test/");
            let refused = tokio::task::block_in_place(|| run(&mut command, SOON));
            assert_eq!(refused.status.code(), Some(CURLE_SSL_CONNECT_ERROR));
            assert!(refused.stderr.contains("unrecognized name"), "{}", refused.stderr);
        }
    }
    assert_eq!(backend.requests(), 4);
}

/// Which server each name reaches. A wildcard stands for one label.
const TABLE: [(Option<&str>, &str); 12] = [
    (Some("one.test"), "one"),
    (Some("ONE.TEST"), "one"),
    (Some("oNe.tEsT"), "one"),
    (Some("a.wild.test"), "wild"),
    (Some("A.WILD.TEST"), "wild"),
    (Some("a.b.wild.test"), "other"),
    (Some("wild.test"), "other"),
    (Some("two.test"), "other"),
    (Some("xone.test"), "other"),
    (Some("one.test.two.test"), "other"),
    (Some("one_test"), "other"),
    (None, "other"),
];

/// nginx that passes TLS through by name.
fn preread(addr: SocketAddr, [one, wild, other]: [SocketAddr; 3]) -> String {
    format!(
        "map $ssl_preread_server_name $to {{
            hostnames;
            one.test {one};
            ~*^[^.]+\\.wild\\.test$ {wild};
            default {other};
        }}
        server {{ listen {addr}; ssl_preread on; proxy_pass $to; }}\n"
    )
}

/// HAProxy that passes TLS through by name.
fn by_sni(addr: SocketAddr, [one, wild, other]: [SocketAddr; 3]) -> String {
    format!(
        "frontend tls
    bind {addr}
    tcp-request inspect-delay 10s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend one if {{ req.ssl_sni -i one.test }}
    use_backend wild if {{ req.ssl_sni -i -m reg ^[^.]+\\.wild\\.test$ }}
    default_backend other
backend one
    server one {one}
backend wild
    server wild {wild}
backend other
    server other {other}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_reach_the_same_servers_as_through_nginx_and_haproxy() {
    let site = Site::new();
    let pem = bundle(&site, &["any.test"]);
    let (_one, one) = Nginx::tls("one", &pem).await;
    let (_wild, wild) = Nginx::tls("wild", &pem).await;
    let (_other, other) = Nginx::tls("other", &pem).await;
    let proxy = passing(&[
        "--route",
        &pass("one.test", &[one]),
        "--route",
        &pass("*.wild.test", &[wild]),
        "--backend",
        &other.to_string(),
    ]);
    let (nginx, haproxy) = (refused_addr(), refused_addr());
    let _nginx = Nginx::with("preread", "", &preread(nginx, [one, wild, other])).await;
    let _haproxy = Haproxy::start(&by_sni(haproxy, [one, wild, other])).await;
    for (flag, version) in VERSIONS {
        for (name, server) in TABLE {
            let sni = name.map_or_else(|| vec!["-noservername"], |name| vec!["-servername", name]);
            let reached = [proxy.addr(), nginx, haproxy].map(|addr| {
                let ended = s_client(&site, addr, &[&[flag][..], &sni[..]].concat());
                body(&ended).to_owned()
            });
            assert!(reached[0].starts_with(&format!("{server} ")), "{name:?}: {reached:?}");
            assert!(reached[0].contains(version), "{name:?}: {reached:?}");
            assert!(reached.iter().all(|other| *other == reached[0]), "{name:?}: {reached:?}");
        }
    }
}

/// Bytes of which no two parts are the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    };
    std::iter::from_fn(next).flatten().take(len).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_pass_whole_both_ways() {
    let (site, addr) = (Site::new(), refused_addr());
    let file = site.dir().write("www/large", noise(LARGE));
    let root = file.parent().unwrap();
    let files = format!("root {}; client_max_body_size 0; dav_methods PUT;", root.display());
    let pem = bundle(&site, &["files.test"]);
    let http = Nginx::tls_server(&format!("{addr} ssl http2"), &pem, &files);
    let _nginx = Nginx::with("files", &http, "").await;
    let proxy = passing(&["--route", &pass("files.test", &[addr])]);
    let sent = fs::read(&file).unwrap();
    for flag in ["--http1.1", "--http2"] {
        let down = site.dir().join("down");
        let args = [flag, "-o", down.to_str().unwrap(), "https://files.test/large"];
        ask(&site, proxy.addr(), LATE, &args);
        assert!(fs::read(&down).unwrap() == sent, "{flag}: another file came down");
        let url = format!("https://files.test/up{flag}");
        ask(&site, proxy.addr(), LATE, &[flag, "-T", file.to_str().unwrap(), &url]);
        let up = root.join(format!("up{flag}"));
        assert!(fs::read(&up).unwrap() == sent, "{flag}: another file went up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_at_once_are_answered() {
    let site = Site::new();
    let pem = bundle(&site, &["many.test"]);
    let (nginx1, web1) = Nginx::tls("web1", &pem).await;
    let (nginx2, web2) = Nginx::tls("web2", &pem).await;
    let proxy = passing(&["--route", &pass("many.test", &[web1, web2])]);
    let parallel = ["--http1.1", "--parallel", "--parallel-immediate", "--parallel-max", "200"];
    let printed = ask(
        &site,
        proxy.addr(),
        LATE,
        &[&parallel[..], &["-w", "%{response_code}\\n", "https://many.test/[1-200]"]].concat(),
    );
    assert_eq!(printed.lines().filter(|line| *line == "200").count(), 200, "{printed}");
    eventually("the logs of all", || nginx1.logged() + nginx2.logged() == 200).await;
    assert!(nginx1.logged() > 0 && nginx2.logged() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_sees_no_error_through_tunnels() {
    let site = Site::new();
    let (nginx, web) = Nginx::tls("web", &bundle(&site, &["web.test"])).await;
    let proxy = passing(&["--route", &pass("web.test", &[web])]);
    let mut command = Command::new("h2load");
    command.args(["-n", "4000", "-c", "16", "-m", "8"]);
    command.args([&format!("--connect-to={}", proxy.addr()), "https://web.test/"]);
    let ended = tokio::task::block_in_place(|| run(&mut command, LATE));
    let report = ended.stdout;
    assert!(ended.status.success(), "{report}\n{}", ended.stderr);
    assert!(report.contains("Application protocol: h2"), "{report}");
    assert!(report.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    assert!(report.contains("status codes: 4000 2xx"), "{report}");
    eventually("the log of all", || nginx.logged() == 4000).await;
}

/// As curl's manual numbers it.
const CURLE_SSL_CONNECT_ERROR: i32 = 35;

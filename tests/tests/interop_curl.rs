//! curl as the client, a web server of another house as the backend.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use bartizan_testkit::{HttpBackend, Leaf, TestCa};
use bartizan_tests::program::{curl, python_http, run};
use bartizan_tests::{Proxy, Site};

const SOON: Duration = Duration::from_secs(30);

/// A gibibyte through an unoptimised build on a busy machine.
const LATE: Duration = Duration::from_secs(180);

const GIB: u64 = 1024 * 1024 * 1024;

/// Far below the length of the body, far above what buffers take.
const GROWTH: u64 = 32 * 1024 * 1024;

const VERSIONS: [(&str, &str); 2] = [("--http1.1", "1.1"), ("--http2", "2")];

async fn scene() -> (Site, HttpBackend, Proxy) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    (site, backend, proxy)
}

/// curl blocks, so it must not run on a thread of the backend's runtime.
fn ask(site: &Site, limit: Duration, args: &[&str]) -> String {
    tokio::task::block_in_place(|| curl(site, limit, args))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_and_posts_over_both_versions() {
    let (site, backend, proxy) = scene().await;
    for (flag, version) in VERSIONS {
        let format = "%{http_version} %{response_code} %{num_connects}\\n";
        let url = proxy.url("/");
        let args = [flag, "--fail", "-w", format, &url, &url];
        let printed = ask(&site, SOON, &args);
        assert_eq!(printed, format!("web\n{version} 200 1\nweb\n{version} 200 0\n"));

        let printed = ask(&site, SOON, &[flag, "--fail", "-d", "hello", &proxy.url("/echo")]);
        assert_eq!(printed, "hello");
        let printed = ask(&site, SOON, &[flag, "--fail", "-I", &proxy.url("/b/1000")]);
        assert!(printed.to_lowercase().contains("content-length: 1000"), "{printed}");
        let printed =
            ask(&site, SOON, &[flag, "-w", "%{response_code}", &proxy.url("/status/404")]);
        assert_eq!(printed, "404");
    }
    let seen = backend.seen().pop().unwrap();
    assert!(seen.header("user-agent").unwrap().starts_with("curl/"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_down_takes_no_memory() {
    for (flag, _) in VERSIONS {
        let (site, _backend, proxy) = scene().await;
        ask(&site, SOON, &[flag, "-o", "/dev/null", &proxy.url("/b/1000000")]);
        let before = proxy.stat().rss;
        let url = proxy.url(&format!("/b/{GIB}"));
        let args = [flag, "--fail", "-o", "/dev/null", "-w", "%{size_download}", &url];
        assert_eq!(ask(&site, LATE, &args), GIB.to_string(), "{flag}");
        let grown = proxy.stat().peak_rss.saturating_sub(before);
        assert!(grown < GROWTH, "{flag}: grew by {} KiB", grown / 1024);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_up_takes_no_memory() {
    for (flag, _) in VERSIONS {
        let (site, _backend, proxy) = scene().await;
        let path = site.dir().join("gibibyte");
        // A hole: it takes no room on the disk.
        File::create(&path).unwrap().set_len(GIB).unwrap();
        ask(&site, SOON, &[flag, "-d", "hello", &proxy.url("/count")]);
        let before = proxy.stat().rss;
        let url = proxy.url("/count");
        let args = [flag, "--fail", "-X", "POST", "-T", path.to_str().unwrap(), &url];
        assert_eq!(ask(&site, LATE, &args), format!("{GIB}\n"), "{flag}");
        let grown = proxy.stat().peak_rss.saturating_sub(before);
        assert!(grown < GROWTH, "{flag}: grew by {} KiB", grown / 1024);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_s_web_server_is_a_backend() {
    let site = Site::new();
    let content = "from python\n".repeat(10_000);
    site.dir().write("www/page.txt", &content);
    let (addr, _running) = python_http(&site.dir().join("www")).await;
    let proxy = site.proxy(&[addr], &["--check", "tcp"]);
    for (flag, _) in VERSIONS {
        for _ in 0..3 {
            // It speaks HTTP/1.0 and closes after each answer.
            assert_eq!(ask(&site, SOON, &[flag, "--fail", &proxy.url("/page.txt")]), content);
            let args = [flag, "-o", "/dev/null", "-w", "%{response_code}", &proxy.url("/none")];
            assert_eq!(ask(&site, SOON, &args), "404");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_shows_its_certificate_and_the_backend_gets_its_name() {
    let (site, clients) = (Site::new(), TestCa::new("clients"));
    let backend = HttpBackend::start("web").await;
    let (alice, mallory) =
        (clients.issue(Leaf::client("alice")), TestCa::new("clients").issue(Leaf::client("alice")));
    let write =
        |name: &str, content: String| site.dir().write(name, content).to_str().unwrap().to_owned();
    let ca = write("clients.pem", clients.cert_pem());
    let (good, bad) =
        (write("alice.pem", alice.bundle_pem()), write("mallory.pem", mallory.bundle_pem()));
    let flags = ["--client-auth", "required", "--client-ca", &ca, "--client-cn-header", "X-CN"];
    let proxy = site.proxy(&[backend.addr()], &flags);
    let url = proxy.url("/headers");
    for (flag, _) in VERSIONS {
        for version in ["1.2", "1.3"] {
            let claim = ["-H", "X-CN: mallory", "-H", "x_cn: mallory", "-H", "Client-Cert: :bQ==:"];
            let tls = ["--tls-max", version, "--cert", &good, flag, "--fail", &url];
            let seen = ask(&site, SOON, &[&claim[..], &tls[..]].concat()).to_lowercase();
            assert!(seen.contains("x-cn: alice\n"), "{seen}");
            assert!(!seen.contains("mallory") && !seen.contains("client-cert"), "{seen}");
            for identity in [&[][..], &["--cert", &bad]] {
                let mut command = Command::new("curl");
                command.args(["-q", "-sS", "-4", "--noproxy", "*", "--cacert"]);
                command.arg(site.ca_file()).args(identity).args(["--tls-max", version, flag, &url]);
                let ended = tokio::task::block_in_place(|| run(&mut command, SOON));
                assert!(!ended.status.success(), "{identity:?}: {}", ended.stdout);
                assert!(ended.stderr.contains("alert"), "{identity:?}: {}", ended.stderr);
            }
        }
    }
    assert_eq!(backend.requests(), 4);
}

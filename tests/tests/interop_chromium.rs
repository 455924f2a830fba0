//! Chromium, which uses one connection for all names that its certificate is for.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use bartizan_testkit::{Leaf, refused_addr};
use bartizan_tests::program::run;
use bartizan_tests::{Nginx, Proxy, Site, eventually};

/// A browser takes its time on a busy machine.
const LATE: Duration = Duration::from_secs(120);

/// What `--ignore-certificate-errors-spki-list` takes: the hash of the first certificate's key.
fn spki(pem: &str) -> String {
    let pipe = r#"openssl x509 -in "$0" -pubkey -noout | openssl pkey -pubin -outform der |
        openssl dgst -sha256 -binary | openssl base64"#;
    let ended = run(Command::new("/bin/sh").args(["-c", pipe, pem]), LATE);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_script_of_a_passed_name_loads_because_421_makes_the_browser_connect_again() {
    let site = Site::new();
    let minted = site.ca().issue(Leaf::server("*.one.test"));
    let pem = site.dir().write("one.pem", minted.bundle_pem());
    let pem = pem.to_str().unwrap();
    let [listen, page, script] = std::array::from_fn(|_| refused_addr());
    let port = listen.port();
    let html = format!(
        "server {{ listen {page}; location / {{ default_type text/html; return 200
        \"<html><script src='https://script.one.test:{port}/title.js'></script></html>\"; }} }}\n"
    );
    let _page = Nginx::with("page", &html, "").await;
    let sets = "location /title.js { default_type text/javascript;
        return 200 \"document.title = 'set by the script';\"; }";
    let http = Nginx::tls_server(&format!("{script} ssl http2"), pem.as_ref(), sets);
    let passed = Nginx::with("script", &http, "").await;
    let (listen, page) = (listen.to_string(), page.to_string());
    let route = format!("script.one.test=pass:{script}");
    let flags = ["--listen", &listen, "--certs", pem, "--backend", &page, "--route", &route];
    let _proxy = Proxy::start(&flags);

    let net_log = site.dir().join("net.json");
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    command.args(["--host-resolver-rules=MAP *.test 127.0.0.1", "--no-proxy-server"]);
    command.arg(format!("--ignore-certificate-errors-spki-list={}", spki(pem)));
    command.arg(format!("--user-data-dir={}", site.dir().join("profile").display()));
    command.arg(format!("--log-net-log={}", net_log.display()));
    command.arg(format!("https://page.one.test:{port}/"));
    let ended = tokio::task::block_in_place(|| run(&mut command, LATE));

    assert!(ended.stdout.contains("<title>set by the script</title>"), "{}", ended.stdout);
    eventually("the log of a request", || passed.logged() == 1).await;
    // It asked for the script where it had got the page.
    let told = fs::read_to_string(net_log).unwrap();
    assert!(told.contains(":status: 421"), "the browser has not used the first connection again");
}

//! The examples of passthrough, run as they stand.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use bartizan_testkit::{HttpBackend, Leaf};
use bartizan_tests::{Http, Proxy, Site, TlsBackend, Visitor, eventually};

#[tokio::test]
async fn servers_that_share_a_certificate_take_turns_and_one_with_another_is_left_out() {
    let site = Site::new();
    let shared = site.ca().issue(Leaf::server("example.test"));
    let wrong = site.ca().issue(Leaf::server("other.test"));
    let web = [
        TlsBackend::start("one", &shared).await,
        TlsBackend::start("two", &shared).await,
        TlsBackend::start("wrong", &wrong).await,
    ];
    let addrs = web.each_ref().map(|backend| backend.addr().to_string());
    let ca = site.ca_file().to_str().unwrap();
    let args = [&["127.0.0.1:0", ca, "example.test"], &addrs.each_ref().map(|a| &**a)[..]].concat();
    let balancer = Proxy::example("passthrough", &args);
    eventually("both to be up", || balancer.stderr().matches("backend is up").count() == 2).await;
    let visitor = Visitor::new(site.ca(), "example.test");
    for _ in 0..6 {
        let answer = visitor.get(&balancer, Http::One, "/").await.unwrap();
        assert!(["one\n", "two\n"].contains(&answer.text()), "{}", answer.text());
    }
    assert_eq!(web.each_ref().map(TlsBackend::served), [3, 3, 0]);
}

#[tokio::test]
async fn one_port_ends_tls_for_one_name_passes_others_and_refuses_the_rest() {
    let (site, www) = (Site::new(), HttpBackend::start("www").await);
    let issue = |name: &str| site.ca().issue(Leaf::server(name));
    let here = site.dir().write("www.pem", issue("www.example.com").bundle_pem());
    let shop = TlsBackend::start("shop", &issue("shop.example.com")).await;
    let mail = TlsBackend::start("mail", &issue("mail.example.com")).await;
    let addrs = [www.addr(), shop.addr(), mail.addr()].map(|addr| addr.to_string());
    let here = here.to_str().unwrap();
    let args = [&["127.0.0.1:0", here], &addrs.each_ref().map(|a| &**a)[..]].concat();
    let router = Proxy::example("host_routing", &args);
    let get = async |name| Visitor::new(site.ca(), name).get(&router, Http::One, "/").await;
    assert_eq!(get("www.example.com").await.unwrap().backend(), "www");
    assert_eq!(get("shop.example.com").await.unwrap().text(), "shop\n");
    assert_eq!(get("mail.example.com").await.unwrap().text(), "mail\n");
    let refused = get("else.example.com").await.unwrap_err();
    assert!(refused.contains("UnrecognisedName"), "{refused}");
}

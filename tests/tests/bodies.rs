//! Bodies of any length pass in memory that does not grow with them.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use bartizan_testkit::HttpBackend;
use bartizan_tests::{Client, Http, Proxy, Site, empty, fill, request};
use http_body_util::BodyExt;

const MIB: u64 = 1024 * 1024;
const LONG: u64 = 256 * MIB;

/// Far below the length of the body, far above what buffers take.
const GROWTH: u64 = 32 * MIB;

async fn scene(http: Http) -> (Proxy, HttpBackend, Client) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    let mut client = Client::connect(&site, &proxy, http).await;
    // What is allocated once is allocated now.
    client.post("/echo", fill(MIB)).await;
    (proxy, backend, client)
}

async fn count(client: &mut Client, path: &str) -> u64 {
    let response = client.send(request("GET", path, empty())).await.unwrap();
    assert_eq!(response.status(), 200);
    read(response.into_body()).await
}

async fn read(mut body: hyper::body::Incoming) -> u64 {
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.unwrap().data_ref().map_or(0, |data| data.len() as u64);
    }
    count
}

fn assert_flat(proxy: &Proxy, before: u64) {
    let grown = proxy.stat().peak_rss.saturating_sub(before);
    assert!(grown < GROWTH, "grew by {} KiB", grown / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_download_takes_no_memory() {
    for http in Http::BOTH {
        let (proxy, _backend, mut client) = scene(http).await;
        let before = proxy.stat().rss;
        for path in [format!("/b/{LONG}"), format!("/chunked/{}", LONG / 4)] {
            let len: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
            assert_eq!(count(&mut client, &path).await, len, "{http:?}");
        }
        assert_flat(&proxy, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_upload_takes_no_memory() {
    for http in Http::BOTH {
        let (proxy, _backend, mut client) = scene(http).await;
        let before = proxy.stat().rss;
        assert_eq!(client.post("/count", fill(LONG)).await.text(), format!("{LONG}\n"), "{http:?}");
        assert_flat(&proxy, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_at_once() {
    for http in Http::BOTH {
        let (proxy, _backend, mut client) = scene(http).await;
        let before = proxy.stat().rss;
        let response = client.send(request("POST", "/echo", fill(LONG / 4))).await.unwrap();
        assert_eq!(read(response.into_body()).await, LONG / 4, "{http:?}");
        assert_flat(&proxy, before);
    }
}

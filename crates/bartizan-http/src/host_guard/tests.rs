use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bartizan_net::{Conn, Misdirected, TlsInfo};
use bytes::Bytes;
use http::{Uri, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::{RequestBody, ServeHttp};

/// Permits `open.x`, `also.x` and `::1`, and remembers what it was asked for.
#[derive(Debug, Default)]
struct Scope(Mutex<Vec<String>>);

impl HostScope for Scope {
    fn permits(&self, host: &str) -> Result<(), Misdirected> {
        self.0.lock().unwrap().push(host.into());
        let permitted = ["open.x", "also.x", "::1"].contains(&host);
        permitted.then_some(()).ok_or(Misdirected::ClientAuth)
    }
}

fn info(sni: Option<&str>, scope: Option<&Arc<Scope>>) -> ConnInfo {
    let addr = "192.0.2.7:5000".parse().unwrap();
    let mut info = ConnInfo::new(addr, addr);
    let mut tls = TlsInfo::default();
    tls.sni = sni.map(Into::into);
    info.set_tls(tls);
    if let Some(scope) = scope {
        info.add_host_scope(Arc::<Scope>::clone(scope));
    }
    info
}

fn request(info: Option<ConnInfo>, target: &str, hosts: &[&[u8]]) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = target.parse().unwrap();
    for host in hosts {
        request.headers_mut().append(HOST, HeaderValue::from_bytes(host).unwrap());
    }
    if let Some(info) = info {
        request.extensions_mut().insert(Arc::new(info));
    }
    request
}

/// The verdict on a request over a connection that shook hands as `open.x`, and what the scope was
/// asked for.
fn verdict(target: &str, hosts: &[&str]) -> (Result<Pass, u16>, Vec<String>) {
    let hosts: Vec<_> = hosts.iter().map(|host| host.as_bytes()).collect();
    let scope = Arc::new(Scope::default());
    let verdict = judge(&request(Some(info(Some("open.x"), Some(&scope))), target, &hosts));
    let asked = scope.0.lock().unwrap().clone();
    (verdict.map_err(|status| status.as_u16()), asked)
}

#[test]
fn another_host_needs_the_scopes_permission() {
    for (host, asked, permitted) in [
        ("also.x", "also.x", true),
        ("also.x:8443", "also.x", true),
        ("also.x:", "also.x", true),
        ("ALSO.x.", "also.x", true),
        ("Also.X.:443", "also.x", true),
        ("[::1]", "::1", true),
        ("[::1]:443", "::1", true),
        ("guarded.x", "guarded.x", false),
        ("guarded.x:443", "guarded.x", false),
        ("GUARDED.X", "guarded.x", false),
        ("guarded.x.", "guarded.x", false),
        ("guarded.x.:443", "guarded.x", false),
        ("[::AB]:443", "::ab", false),
        ("192.0.2.1:80", "192.0.2.1", false),
        ("my_host-1", "my_host-1", false),
    ] {
        let expected =
            || (if permitted { Ok(Pass::Unchanged) } else { Err(421) }, vec![asked.into()]);
        assert_eq!(verdict("/", &[host]), expected(), "{host}");
        let target = format!("https://{host}/a?b");
        assert_eq!(verdict(&target, &[]), expected(), "{target}");
        assert_eq!(verdict(&target, &[host]), expected(), "{target} twice");
    }
}

#[test]
fn the_name_of_the_handshake_is_not_asked_for() {
    for host in ["open.x", "open.x:8443", "OPEN.X", "Open.x.:443"] {
        assert_eq!(verdict("/", &[host]), (Ok(Pass::Unchanged), vec![]), "{host}");
    }
    let (passed, asked) = verdict("https://OPEN.x./", &["open.x:443"]);
    assert_eq!((passed, asked.len()), (Ok(Pass::Unchanged), 0));
}

#[test]
fn a_request_that_names_two_hosts_is_refused_whichever_they_are() {
    for (target, hosts) in [
        ("/", &["open.x", "guarded.x"][..]),
        ("/", &["guarded.x", "open.x"]),
        ("/", &["open.x", "also.x"]),
        ("/", &["open.x", "open.x"]),
        ("/", &["", "guarded.x"]),
        ("/", &["open.x", ""]),
        ("http://open.x/", &["open.x", "guarded.x"]),
        ("http://open.x/", &["open.x", "open.x"]),
    ] {
        assert_eq!(verdict(target, hosts), (Err(400), vec![]), "{target} {hosts:?}");
    }
}

#[test]
fn in_http1_a_target_in_absolute_form_counts_and_becomes_the_host() {
    for host in ["guarded.x", "also.x", "other.x:8443"] {
        let target = HeaderValue::from_static("open.x");
        assert_eq!(verdict("http://open.x/", &[host]), (Ok(Pass::As(target)), vec![]), "{host}");
    }
    let (passed, asked) = verdict("http://guarded.x/", &["open.x"]);
    assert_eq!((passed, asked), (Err(421), vec!["guarded.x".to_owned()]));
    assert_eq!(verdict("http://open.x/", &["a b"]).0, Err(400));
}

#[test]
fn what_is_not_plainly_one_host_is_refused() {
    for host in [
        "open.x@guarded.x",
        "guarded.x@open.x",
        "a:b@guarded.x",
        "open.x:80@guarded.x",
        "open.x,guarded.x",
        "open.x, guarded.x",
        "open.x guarded.x",
        "open.x\tguarded.x",
        "open.x/guarded.x",
        "open.x:guarded.x",
        "open.x:80:80",
        "guarded%2ex",
        "open.x?guarded.x",
        "open.x#",
        "\\",
        ":443",
        ".",
        "..",
        "open.x..",
        ".open.x",
        "open..x",
        "[::1",
        "[::1]x",
        "[::1]:x",
        "[::1]:1:1",
        "[open.x]",
        "[fe80::1%25eth0]",
        "[]",
        "::1",
        "http://open.x",
        "jörg.x",
        "*.x",
    ] {
        assert_eq!(verdict("/", &[host]), (Err(400), vec![]), "{host}");
        let Ok(target) = Uri::builder().scheme("http").authority(host).path_and_query("/").build()
        else {
            continue;
        };
        let (verdict, asked) = verdict(&target.to_string(), &[]);
        assert_eq!((verdict, asked.len()), (Err(400), 0), "{target}");
    }
    let no_text = request(Some(info(Some("open.x"), Some(&Arc::default()))), "/", &[b"open.x\xff"]);
    assert_eq!(judge(&no_text), Err(StatusCode::BAD_REQUEST));
    // The one with user information, above all, does have a target that can be parsed.
    assert!(matches!(verdict("http://open.x@guarded.x/", &[]).0, Err(400)));
    assert!(matches!(verdict("http://guarded.x@open.x/", &[]).0, Err(400)));
}

#[test]
fn a_request_that_names_no_host_is_for_the_name_of_the_handshake() {
    for (target, hosts) in [("/", &[][..]), ("/", &[""]), ("*", &[])] {
        let named = Ok(Pass::As(HeaderValue::from_static("open.x")));
        assert_eq!(verdict(target, hosts), (named, vec![]), "{target} {hosts:?}");
    }
    let scope = Arc::new(Scope::default());
    let nameless = request(Some(info(None, Some(&scope))), "/", &[]);
    assert_eq!(judge(&nameless), Err(StatusCode::MISDIRECTED_REQUEST));
    assert_eq!(*scope.0.lock().unwrap(), [""]);
}

#[test]
fn without_a_server_name_the_scope_is_asked_for_every_host() {
    let scope = Arc::new(Scope::default());
    let ask = |host: &[u8]| judge(&request(Some(info(None, Some(&scope))), "/", &[host]));
    assert_eq!(ask(b"open.x"), Ok(Pass::Unchanged));
    assert_eq!(ask(b"guarded.x"), Err(StatusCode::MISDIRECTED_REQUEST));
    assert_eq!(*scope.0.lock().unwrap(), ["open.x", "guarded.x"]);
}

#[test]
fn where_nobody_has_said_what_may_be_asked_for_all_passes() {
    for info in [None, Some(info(Some("open.x"), None))] {
        for hosts in [&[][..], &[&b"guarded.x"[..]], &[b"a", b"b"], &[b"@"]] {
            assert_eq!(judge(&request(info.clone(), "/", hosts)), Ok(Pass::Unchanged));
        }
    }
}

#[test]
fn a_refused_request_does_not_reach_the_service_and_readiness_is_the_services() {
    /// Is ready at the second poll, and only that very one may be called.
    #[derive(Default)]
    struct Reserved(u8);
    impl Clone for Reserved {
        fn clone(&self) -> Self {
            Self::default()
        }
    }
    impl Service<Request<()>> for Reserved {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = (self.0 + 1).min(2);
            if self.0 == 2 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            assert_eq!(std::mem::take(&mut self.0), 2, "called without having been ready");
            std::future::ready(Ok(Response::new(Full::from("served"))))
        }
    }
    let scope = Arc::new(Scope::default());
    let request = |host: &[u8]| request(Some(info(None, Some(&scope))), "/", &[host]);
    let mut guard = HostGuardLayer::new().layer(Reserved::default());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Service::<Request<()>>::poll_ready(&mut guard, &mut cx).is_pending());
    assert!(Service::<Request<()>>::poll_ready(&mut guard, &mut cx).is_ready());
    let refused = tokio_test::block_on(guard.call(request(b"guarded.x"))).unwrap();
    assert_eq!(refused.status(), 421);
    // What was reserved is still there.
    let served = tokio_test::block_on(guard.call(request(b"open.x"))).unwrap();
    let body = tokio_test::block_on(served.into_body().collect()).unwrap().to_bytes();
    assert_eq!(body, "served");
}

/// Serves one connection that shook hands as `open.x`, to `client`. The service answers with the
/// `Host` that it was asked for.
async fn serve<C, T>(h2: bool, client: impl FnOnce(DuplexStream) -> C) -> T
where
    C: Future<Output = T>,
{
    let mut info = info(Some("open.x"), Some(&Arc::default()));
    if h2 {
        let mut tls = info.tls().unwrap().clone();
        tls.alpn = Some(b"h2"[..].into());
        info.set_tls(tls);
    }
    let echo = service_fn(async |request: Request<RequestBody>| {
        let host = request.headers().get(HOST).map(|host| Bytes::copy_from_slice(host.as_bytes()));
        Ok::<_, Infallible>(Response::new(Full::new(host.unwrap_or_default())))
    });
    let service = ServiceBuilder::new().layer(HostGuardLayer::new()).service(echo);
    let (near, far) = tokio::io::duplex(1 << 16);
    let serving = ServeHttp::new(service).oneshot(Conn::new(far, info));
    tokio::join!(serving, client(near)).1
}

#[tokio::test]
async fn over_http1_a_misdirected_request_gets_421_and_the_connection_goes_on() {
    let said = serve(false, async |mut io: DuplexStream| {
        let requests = "GET / HTTP/1.1\r\nHost: guarded.x\r\n\r\n\
             GET http://guarded.x/ HTTP/1.1\r\nHost: guarded.x\r\n\r\n\
             GET http://open.x/ HTTP/1.1\r\nHost: guarded.x\r\n\r\n\
             GET / HTTP/1.1\r\nHost: open.x\r\nHost: guarded.x\r\n\r\n\
             HEAD / HTTP/1.1\r\nHost: guarded.x\r\n\r\n\
             GET / HTTP/1.1\r\nHost: Open.X:8443\r\n\r\n\
             GET / HTTP/1.1\r\nHost:\r\n\r\n\
             GET / HTTP/1.0\r\n\r\n";
        io.write_all(requests.as_bytes()).await.unwrap();
        let mut said = String::new();
        io.read_to_string(&mut said).await.unwrap();
        said
    })
    .await;
    let answers: Vec<_> = said.split("HTTP/1.").skip(1).collect();
    let status: Vec<_> = answers.iter().map(|answer| &answer[2..5]).collect();
    assert_eq!(status, ["421", "421", "200", "400", "421", "200", "200", "200"], "{said}");
    assert!(answers[2].ends_with("\r\n\r\nopen.x"), "the target's host counts: {said}");
    assert!(answers[0].contains("content-type: text/plain"), "{said}");
    assert!(!answers[0].contains("connection: close"), "{said}");
    assert!(answers[0].ends_with("\r\n\r\n421 Misdirected Request\n"), "{said}");
    assert!(answers[4].ends_with("\r\n\r\n"), "no body for HEAD: {said}");
    assert!(answers[5].ends_with("\r\n\r\nOpen.X:8443"), "passed on as it came: {said}");
    for answer in &answers[6..] {
        assert!(answer.ends_with("\r\n\r\nopen.x"), "not for a default host: {said}");
    }
}

#[tokio::test]
async fn over_http2_a_misdirected_request_gets_421_and_the_connection_goes_on() {
    let said = serve(true, async |io: DuplexStream| {
        let (mut send, client) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
                .await
                .unwrap();
        let client = tokio::spawn(client);
        let mut said = Vec::new();
        for (method, uri, host) in [
            ("GET", "https://guarded.x/", None),
            ("GET", "https://guarded.x/", Some("open.x")),
            ("GET", "https://open.x/", Some("guarded.x")),
            ("HEAD", "https://guarded.x/", None),
            ("GET", "https://GUARDED.x:443/", None),
            ("GET", "https://open.x:443/", Some("open.x")),
            ("GET", "https://also.x/", None),
        ] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = uri.parse().unwrap();
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().extend(host.map(|host| (HOST, HeaderValue::from_static(host))));
            let response = send.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            said.push((status, String::from_utf8(body.into()).unwrap()));
        }
        drop(send);
        client.await.unwrap().unwrap();
        said
    })
    .await;
    let said: Vec<_> = said.iter().map(|(status, body)| (*status, body.as_str())).collect();
    assert_eq!(
        said,
        [
            (421, "421 Misdirected Request\n"),
            (400, "400 Bad Request\n"),
            (400, "400 Bad Request\n"),
            (421, ""),
            (421, "421 Misdirected Request\n"),
            (200, "open.x"),
            (200, ""),
        ]
    );
}

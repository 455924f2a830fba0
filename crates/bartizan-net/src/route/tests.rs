use std::convert::Infallible;
use std::net::SocketAddr;

use http::{HeaderValue, Version};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{HelloProgress, HelloReader, Misdirected, TlsInfo};

/// The ClientHello of a client that offers as little as it can.
fn hello(name: Option<&str>, protocols: &[&str]) -> Vec<u8> {
    let u16 = |n: usize| (n as u16).to_be_bytes();
    let sized = |bytes: Vec<u8>| [&u16(bytes.len())[..], &bytes].concat();
    let extension = |kind: u16, bytes: Vec<u8>| [&kind.to_be_bytes()[..], &sized(bytes)].concat();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let entry = [&[0][..], &sized(name.into())].concat();
        extensions.extend(extension(0, sized(entry)));
    }
    if !protocols.is_empty() {
        let named = |name: &&str| [&[name.len() as u8][..], name.as_bytes()].concat();
        extensions.extend(extension(16, sized(protocols.iter().flat_map(named).collect())));
    }
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &sized(extensions)].concat();
    let message = [&[1, 0][..], &sized(body)].concat();
    [&[22, 3, 1][..], &sized(message)].concat()
}

/// A connection that has begun like this.
fn conn(name: Option<&str>, protocols: &[&str]) -> Conn<()> {
    let mut conn = not_tls();
    let Ok(HelloProgress::Hello(hello)) = HelloReader::new(4_096).push(&hello(name, protocols))
    else {
        panic!("no ClientHello")
    };
    conn.info_mut().set_client_hello(Arc::new(hello));
    conn
}

fn not_tls() -> Conn<()> {
    let addr: SocketAddr = "192.0.2.1:1".parse().unwrap();
    Conn::new((), ConnInfo::new(addr, addr))
}

type Named = BoxConnService<()>;

/// Fails with its name: what was routed where is seen by the error.
fn named(name: &'static str) -> Named {
    BoxConnService::new(service_fn(move |_: Conn<()>| async move { Err::<(), _>(name) }))
}

async fn routed(router: &HostRouter<Named>, conn: Conn<()>) -> String {
    router.clone().oneshot(conn).await.unwrap_err().to_string()
}

#[tokio::test]
async fn exact_comes_before_wildcard_and_wildcard_before_everything_else() {
    let router = HostRouter::new(named("else"))
        .route(["www.example.com", "example.org"], named("exact"))
        .unwrap()
        .route(["*.example.com"], named("wildcard"))
        .unwrap()
        .except(["open.example.com"])
        .unwrap();
    for (name, route) in [
        ("www.example.com", "exact"),
        ("WWW.Example.COM", "exact"),
        ("example.org", "exact"),
        ("mail.example.com", "wildcard"),
        ("open.example.com", "else"),
        ("a.b.example.com", "else"),
        ("example.com", "else"),
        ("www.example.org", "else"),
    ] {
        assert_eq!(routed(&router, conn(Some(name), &[])).await, route, "{name}");
    }
    assert_eq!(routed(&router, conn(None, &[])).await, "else");
    assert_eq!(routed(&router, not_tls()).await, "else");
}

#[tokio::test]
async fn what_is_not_tls_may_have_a_route() {
    let router = HostRouter::new(named("else")).not_tls(named("plain"));
    assert_eq!(routed(&router, not_tls()).await, "plain");
    assert_eq!(routed(&router, conn(None, &[])).await, "else");
}

#[tokio::test]
async fn the_clients_first_choice_among_protocols_with_routes_decides() {
    let router = HostRouter::new(named("else"))
        .route(["a.test"], named("any"))
        .unwrap()
        .route_alpn(["a.test", "b.test"], "h2", named("h2"))
        .unwrap()
        .route_alpn(["a.test"], "acme-tls/1", named("acme"))
        .unwrap();
    for (name, protocols, route) in [
        ("a.test", &["acme-tls/1"][..], "acme"),
        ("a.test", &["h2", "http/1.1"], "h2"),
        ("a.test", &["http/1.1", "acme-tls/1", "h2"], "acme"),
        ("a.test", &["http/1.1"], "any"),
        ("a.test", &[], "any"),
        ("b.test", &["h2"], "h2"),
        ("b.test", &["http/1.1"], "else"),
    ] {
        assert_eq!(
            routed(&router, conn(Some(name), protocols)).await,
            route,
            "{name} {protocols:?}"
        );
    }
}

#[tokio::test]
async fn after_termination_the_name_of_the_handshake_counts() {
    let router = HostRouter::new(named("else")).route(["a.test"], named("a")).unwrap();
    let mut conn = not_tls();
    conn.info_mut().set_tls(TlsInfo { sni: Some("a.test".into()), ..TlsInfo::default() });
    assert_eq!(routed(&router, conn).await, "a");
}

#[tokio::test]
async fn a_connection_permits_the_hosts_of_its_own_route() {
    let answer = |conn: Conn<()>| async move {
        let scope = conn.info().host_scope().unwrap();
        let hosts = ["here.test", "also.test", "away.test", "other.test", ""];
        Ok::<_, Infallible>(hosts.map(|host| scope.permits(host)))
    };
    let router = HostRouter::new(service_fn(answer))
        .route(["here.test", "also.test"], service_fn(answer))
        .unwrap()
        .route(["away.test"], service_fn(answer))
        .unwrap();
    let (yes, no) = (Ok(()), Err(Misdirected::Route));
    for (name, expected) in [
        (Some("here.test"), [yes, yes, no, no, no]),
        (Some("away.test"), [no, no, yes, no, no]),
        (Some("other.test"), [no, no, no, yes, yes]),
        (None, [no, no, no, yes, yes]),
    ] {
        let permitted = router.clone().oneshot(conn(name, &[])).await.unwrap();
        assert_eq!(permitted, expected, "{name:?}");
    }
}

#[tokio::test]
async fn requests_go_by_their_host() {
    let named = |name| service_fn(move |_: Request<()>| async move { Ok::<_, Infallible>(name) });
    let router = HostRouter::new(named("else"))
        .route(["a.test"], named("a"))
        .unwrap()
        .route(["*.b.test"], named("b"))
        .unwrap();
    for (target, hosts, route) in [
        ("/", &["a.test"][..], "a"),
        ("/", &["A.test:8443"], "a"),
        ("/", &["a.test."], "a"),
        ("/", &["x.b.test"], "b"),
        ("https://a.test/", &[], "a"),
        ("https://x.b.test:8443/", &[], "b"),
        ("https://a.test/", &["x.b.test"], "a"),
        ("/", &["x.b.test.a.test"], "else"),
        ("/", &["a.test", "a.test"], "else"),
        ("/", &["user@a.test"], "else"),
        ("/", &["[::1]:80"], "else"),
        ("/", &["\u{fe}"], "else"),
        ("/", &[], "else"),
    ] {
        let mut request =
            Request::builder().uri(target).version(Version::HTTP_11).body(()).unwrap();
        for host in hosts {
            let value = HeaderValue::from_bytes(host.as_bytes()).unwrap();
            request.headers_mut().append("host", value);
        }
        assert_eq!(router.clone().oneshot(request).await.unwrap(), route, "{target} {hosts:?}");
    }
}

#[test]
fn a_name_has_one_route() {
    let router = || HostRouter::new(()).route(["a.test", "*.a.test"], ()).unwrap();
    for name in ["a.test", "A.test.", "*.a.test"] {
        let error = router().route([name], ()).unwrap_err();
        assert!(matches!(&error, RouteError::Twice { .. }), "{error}");
        assert!(router().except([name]).is_err());
        assert!(router().route_alpn([name], "h2", ()).is_ok());
    }
    let twice = router().route_alpn(["a.test"], "h2", ()).unwrap().route_alpn(["a.test"], "h2", ());
    assert!(twice.is_err());
    let error = router().route(["no name"], ()).unwrap_err();
    assert!(error.to_string().contains("no name"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_service_may_decide() {
    let decide = service_fn(|info: ConnInfo| async move {
        let name = info.client_hello().and_then(|hello| hello.server_name().map(str::to_owned));
        match name.as_deref() {
            Some("slow.test") => std::future::pending().await,
            Some("a.test") => Ok(named("a")),
            _ => Err("nobody knows"),
        }
    });
    let decided = |conn| Decide::new(decide).oneshot(conn);
    assert_eq!(decided(conn(Some("a.test"), &[])).await.unwrap_err().to_string(), "a");
    let failed = decided(not_tls()).await.unwrap_err();
    assert!(matches!(&failed, DecideError::Failed(why) if why.to_string() == "nobody knows"));
    let late = decided(conn(Some("slow.test"), &[])).await.unwrap_err();
    assert!(matches!(late, DecideError::Timeout { limit } if limit.as_secs() == 10), "{late}");
}

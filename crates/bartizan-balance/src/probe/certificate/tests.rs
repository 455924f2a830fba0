use std::io;
use std::pin::Pin;

use bartizan_net::{Address, WrongIdentity};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tower::{ServiceExt, service_fn};

use super::*;

/// A stream that tells of a peer.
struct Shown {
    io: DuplexStream,
    peer: Option<PeerIdentity>,
}

impl AsyncRead for Shown {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shown {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl DialledStream for Shown {
    fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }
}

/// A certificate that ends so many hours after [`today`].
fn certificate(leaf: u8, hours: i64) -> PeerIdentity {
    let mut peer = PeerIdentity::new([9; 32], [leaf; 32]);
    let off = Duration::from_secs(hours.unsigned_abs() * 3600);
    peer.not_after = Some(if hours < 0 { today() - off } else { today() + off });
    peer
}

/// 2023-11-14 22:13:20 UTC.
fn today() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn backend(name: &str) -> Arc<Backend> {
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    Arc::new(Backend::new(name, address))
}

fn shows(
    peer: Option<PeerIdentity>,
) -> impl Service<Arc<Backend>, Response = Shown, Error = io::Error, Future: Send + 'static> + Clone
{
    service_fn(move |_| {
        let peer = peer.clone();
        async move { Ok(Shown { io: duplex(1).0, peer }) }
    })
}

async fn ask<D, C>(probe: CertificateProbe<D, C>) -> Verdict
where
    CertificateProbe<D, C>: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
{
    let Ok(verdict) = probe.oneshot(backend("a")).await;
    verdict
}

#[tokio::test]
async fn a_certificate_fails_from_the_day_on_that_is_too_few() {
    for (hours, required, passes) in [
        (24 * 7, 7, true),
        (24 * 7 - 1, 7, false),
        (1, 0, true),
        (0, 0, true),
        (-1, 0, false),
        (24 * 8, 7, true),
    ] {
        let probe = CertificateProbe::new(shows(Some(certificate(1, hours)))).clock(today());
        let verdict = ask(probe.clone().require_days(required)).await;
        assert_eq!(verdict.is_pass(), passes, "{hours} hours left, {required} days required");
        assert_eq!(ask(probe).await, Verdict::Pass);
    }
}

#[tokio::test]
async fn a_failure_tells_the_date() {
    let probe = CertificateProbe::new(shows(Some(certificate(1, 49)))).clock(today());
    let reason = "the certificate of a is good until Thu, 16 Nov 2023 23:13:20 GMT: 2 days, \
                  where 3 are required";
    assert_eq!(ask(probe.require_days(3)).await, Verdict::fail(reason));
}

#[tokio::test]
async fn a_stack_without_tls_passes_unless_days_are_required() {
    let probe = CertificateProbe::new(shows(None)).clock(today());
    assert_eq!(ask(probe.clone()).await, Verdict::Pass);
    assert!(ask(probe.require_days(0)).await.reason().starts_with("it shows no certificate"));
}

#[tokio::test]
async fn what_fails_the_handshake_is_what_the_error_says() {
    let refused = service_fn(async |_: Arc<Backend>| Err::<Shown, _>(io::Error::other("refused")));
    assert_eq!(ask(CertificateProbe::new(refused)).await, Verdict::fail("refused"));
    let another = service_fn(async |_: Arc<Backend>| Err::<Shown, _>(WrongIdentity::new("no")));
    assert!(matches!(ask(CertificateProbe::new(another)).await, Verdict::Unfit { .. }));
}

#[tokio::test]
async fn what_was_seen_last_is_there_for_a_status_page() {
    let probe = CertificateProbe::new(shows(Some(certificate(1, 50)))).clock(today());
    let (certificates, a, b) = (probe.certificates(), backend("a"), backend("b"));
    assert_eq!((certificates.of(&a), certificates.all()), (None, vec![]));
    probe.clone().oneshot(Arc::clone(&a)).await.unwrap();
    let life = certificates.of(&a).unwrap();
    assert_eq!((life.days_left, life.leaf_sha256), (2, [1; 32]));
    assert_eq!(life.not_after, today() + Duration::from_secs(50 * 3600));

    let look = Look { warn: 14, require: None, seen: certificates.clone() };
    look.at(&b, Some(&certificate(2, 30)), today());
    let names =
        || certificates.all().iter().map(|life| life.backend.to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["b", "a"]);
    look.at(&b, Some(&certificate(3, 3000)), today());
    assert_eq!(names(), ["a", "b"]);
    look.at(&a, None, today());
    assert_eq!((certificates.of(&a), names()), (None, vec!["b".into()]));
}

#[test]
fn backends_that_are_gone_are_forgotten() {
    let certificates = Certificates::default();
    let look = Look { warn: 14, require: None, seen: certificates.clone() };
    for _ in 0..10 {
        look.at(&backend("gone"), Some(&certificate(1, 30)), today());
    }
    assert_eq!(certificates.all(), []);
    let here = backend("here");
    look.at(&here, Some(&certificate(1, 30)), today());
    assert_eq!(certificates.lock().len(), 1);
}

#[test]
fn each_certificate_that_is_near_its_end_is_told_of_once() {
    let (certificates, a, b) = (Certificates::default(), backend("a"), backend("b"));
    let near = |backend, leaf| certificates.keep(backend, None, Told::NearEnd([leaf; 32]));
    assert!(near(&a, 1) && near(&b, 1));
    assert!(!near(&a, 1) && !near(&b, 1));
    assert!(near(&a, 2), "another certificate");
    assert!(!certificates.keep(&a, None, Told::Nothing), "a renewed one");
    assert!(certificates.keep(&a, None, Told::NoCertificate));
    assert!(!certificates.keep(&a, None, Told::NoCertificate));
}

#[test]
fn days_are_whole_ones() {
    let day = |hours| {
        let end = certificate(1, hours).not_after.unwrap();
        days_between(today(), end)
    };
    assert_eq!([48, 47, 24, 23, 0, -1, -23, -25].map(day), [2, 1, 1, 0, 0, -1, -1, -2]);
}

#[test]
fn a_certificate_without_a_sensible_end_is_shown() {
    let mut peer = certificate(1, 0);
    peer.not_after = Some(latest() + Duration::from_secs(1 << 40));
    let life = life(&backend("a"), &peer, today()).unwrap();
    assert!(life.to_string().contains("31 Dec 9999 23:59:59"), "{life}");
}

#[test]
fn a_certificate_is_near_its_end_with_fewer_days_left_than_set() {
    let (certificates, a) = (Certificates::default(), backend("a"));
    let look = Look { warn: 14, require: None, seen: certificates.clone() };
    for (hours, told) in [(14 * 24, Told::Nothing), (14 * 24 - 1, Told::NearEnd([1; 32]))] {
        look.at(&a, Some(&certificate(1, hours)), today());
        assert_eq!(certificates.lock()[&a.id()].told, told, "{hours} hours");
    }
}

//! What it costs that the key lives in another process:
//! `cargo bench -p bartizan-benches --bench signing`.
//!
//! Whole handshakes of TLS 1.3 over a pipe in memory, without resumption, with the same P-256 key at
//! hand and behind a Unix socket. The key server has a thread of its own.

#[cfg(unix)]
mod unix {
    use std::future::pending;
    use std::sync::Arc;
    use std::thread;

    use bartizan::net::{Conn, ConnInfo};
    use bartizan::tls::rustls::crypto::aws_lc_rs;
    use bartizan::tls::rustls::pki_types::ServerName;
    use bartizan::tls::rustls::{self, ClientConfig, RootCertStore};
    use bartizan::tls::{Identity, KeyServer, TlsTerminateLayer, UnixSigner};
    use criterion::Criterion;
    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::{DuplexStream, duplex};
    use tokio::net::UnixListener;
    use tokio::runtime::Builder;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::server::TlsStream;
    use tower::{Layer, ServiceExt, service_fn};

    pub(super) fn signing(c: &mut Criterion) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned()];
        let cert = CertificateParams::new(names).and_then(|params| params.self_signed(&key));
        let cert = cert.expect("a certificate");
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let socket = dir.path().join("sock");
        let server = KeyServer::new().pem("key", key.serialize_pem().as_bytes()).expect("a key");
        let (bound, is_bound) = std::sync::mpsc::channel();
        let path = socket.clone();
        // Ends with the process.
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = UnixListener::bind(path).expect("a socket");
                bound.send(()).expect("it is waited for");
                server.serve(listener, pending()).await
            })
        });
        is_bound.recv().expect("a key server");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let bundle = cert.pem() + &key.serialize_pem();
        let local = Identity::from_pem("local", bundle.as_bytes()).expect("an identity");
        let remote = UnixSigner::new(socket);
        let remote = Identity::with_signer("remote", cert.pem().as_bytes(), remote);
        let mut group = c.benchmark_group("handshake_tls13_p256");
        let identities = [("local", local), ("unix_socket", remote.expect("an identity"))];
        for (what, identity) in identities {
            let layer = TlsTerminateLayer::new(identity);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            group.bench_function(what, |b| {
                b.iter(|| runtime.block_on(shake(&layer, client(&roots))));
            });
        }
        group.finish();
    }

    fn client(roots: &RootCertStore) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        Arc::new(config)
    }

    async fn shake(layer: &TlsTerminateLayer, client: Arc<ClientConfig>) {
        let (near, far) = duplex(65_536);
        let done = |_: Conn<TlsStream<DuplexStream>>| async { Ok::<_, std::io::Error>(()) };
        let addr = ([192, 0, 2, 1], 443).into();
        let name = ServerName::try_from("localhost").expect("a name");
        let served =
            layer.layer(service_fn(done)).oneshot(Conn::new(far, ConnInfo::new(addr, addr)));
        let (served, shaken) = tokio::join!(served, TlsConnector::from(client).connect(name, near));
        served.expect("a handshake");
        shaken.expect("a handshake");
    }
}

#[cfg(unix)]
criterion::criterion_group!(benches, unix::signing);
#[cfg(unix)]
criterion::criterion_main!(benches);

#[cfg(not(unix))]
fn main() {}

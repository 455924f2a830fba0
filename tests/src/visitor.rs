//! Clients that differ in how they speak TLS.

use std::sync::{Arc, OnceLock};

use bartizan_testkit::{Minted, TestCa};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::PATIENCE;
use crate::{Answer, Client, Http, Proxy, empty, request_to, within};

/// Somebody who asks a proxy for one host, again and again over new connections.
///
/// By default it has no certificate, speaks TLS 1.2 and 1.3, checks every kind of key and keeps
/// sessions.
#[derive(Debug)]
pub struct Visitor {
    name: String,
    roots: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    versions: Vec<&'static SupportedProtocolVersion>,
    provider: CryptoProvider,
    announced: &'static str,
    sni: bool,
    resumes: bool,
    config: OnceLock<ClientConfig>,
}

impl Visitor {
    /// Trusts `ca`, and asks for `name`.
    pub fn new(ca: &TestCa, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            roots: ca.roots(),
            identity: None,
            versions: rustls::ALL_VERSIONS.to_vec(),
            provider: aws_lc_rs::default_provider(),
            announced: "",
            sni: true,
            resumes: true,
            config: OnceLock::new(),
        }
    }

    /// Shows this certificate where one is asked for.
    pub fn showing(mut self, identity: &Minted) -> Self {
        self.identity = Some((identity.chain_der(), identity.key_der()));
        self
    }

    /// Speaks this version alone.
    pub fn speaking(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Says that it checks no other signatures than those whose names in rustls start with `prefix`.
    pub fn announcing(self, prefix: &'static str) -> Self {
        Self { announced: prefix, ..self }
    }

    /// Speaks TLS 1.2 alone, with cipher suites that have `part` in their names.
    pub fn offering(mut self, part: &str) -> Self {
        let fits = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains(part);
        self.provider.cipher_suites.retain(fits);
        self.speaking(&rustls::version::TLS12)
    }

    /// Does not say in the handshake which name it asks for.
    pub fn without_sni(self) -> Self {
        Self { sni: false, ..self }
    }

    /// Forgets its sessions.
    pub fn forgetful(self) -> Self {
        Self { resumes: false, ..self }
    }

    /// The configuration for `http`; sessions are the same for both.
    pub fn tls(&self, http: Http) -> Arc<ClientConfig> {
        let mut config = self.config.get_or_init(|| self.build()).clone();
        config.alpn_protocols = vec![http.alpn().into()];
        Arc::new(config)
    }

    /// Shakes hands.
    ///
    /// A server that refuses a client's certificate in TLS 1.3 does so after this.
    ///
    /// # Errors
    ///
    /// Whatever fails first, as text.
    pub async fn handshake(
        &self,
        proxy: &Proxy,
        http: Http,
    ) -> Result<TlsStream<TcpStream>, String> {
        let tcp = TcpStream::connect(proxy.addr()).await.map_err(|e| format!("connect: {e}"))?;
        tcp.set_nodelay(true).unwrap();
        self.handshake_over(tcp, http).await
    }

    /// Shakes hands over a connection that is there.
    ///
    /// # Errors
    ///
    /// What fails, as text.
    pub async fn handshake_over(
        &self,
        tcp: TcpStream,
        http: Http,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let shaken = TlsConnector::from(self.tls(http)).connect(name, tcp);
        let shaken = within(PATIENCE, "the handshake", shaken).await;
        shaken.map_err(|e| format!("handshake: {e}"))
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// Whatever fails first, as text.
    pub async fn open(&self, proxy: &Proxy, http: Http) -> Result<Client, String> {
        Client::over(self.handshake(proxy, http).await?, http).await
    }

    /// GETs `path` of the host over a new connection.
    ///
    /// # Errors
    ///
    /// Whatever fails first, as text.
    pub async fn get(&self, proxy: &Proxy, http: Http, path: &str) -> Result<Answer, String> {
        let mut client = self.open(proxy, http).await?;
        client.ask(request_to("GET", &self.name, path, &[], empty())).await
    }

    /// The certificate that it is shown.
    ///
    /// # Panics
    ///
    /// If there is none that it takes.
    pub async fn shown(&self, proxy: &Proxy) -> CertificateDer<'static> {
        let stream = self.handshake(proxy, Http::One).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Whether a new connection, over which it is served, has resumed a session.
    ///
    /// # Panics
    ///
    /// If it is not served.
    pub async fn resumes(&self, proxy: &Proxy) -> bool {
        self.visit(proxy).await.unwrap()
    }

    /// [`resumes`](Self::resumes), where it may not be served.
    ///
    /// # Errors
    ///
    /// Whatever fails first, as text.
    pub async fn visit(&self, proxy: &Proxy) -> Result<bool, String> {
        let mut stream = self.handshake(proxy, Http::One).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.name);
        // If it is refused, the alert can still be read.
        let _ = stream.write_all(request.as_bytes()).await;
        // To the end: tickets of TLS 1.3 have come by then.
        let mut answer = Vec::new();
        let read = within(PATIENCE, "the answer", stream.read_to_end(&mut answer)).await;
        read.map_err(|e| e.to_string())?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if !answer.starts_with("HTTP/1.1 200 ") {
            return Err(answer);
        }
        Ok(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    fn build(&self) -> ClientConfig {
        let provider = Arc::new(self.provider.clone());
        let roots = Arc::new(self.roots.clone());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Picky {
                inner: verifier.build().unwrap(),
                announced: self.announced,
            }));
        let mut config = match &self.identity {
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sni;
        if !self.resumes {
            config.resumption = Resumption::disabled();
        }
        config
    }
}

/// Checks all, and says that it does not.
#[derive(Debug)]
struct Picky {
    inner: Arc<WebPkiServerVerifier>,
    announced: &'static str,
}

impl ServerCertVerifier for Picky {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.inner.supported_verify_schemes();
        schemes.retain(|scheme| format!("{scheme:?}").starts_with(self.announced));
        schemes
    }
}

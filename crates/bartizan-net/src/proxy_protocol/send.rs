//! What to tell backends about clients.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    ProxyAddresses, ProxyHeader, ProxyHeaderError, ProxySsl, ProxyTlv, ProxyTlvs, ProxyVersion, tlv,
};
use crate::{ConnInfo, TlsInfo};

/// Which PROXY header backends get, and what is in it.
///
/// The addresses are [`ConnInfo::peer`] and [`ConnInfo::local`]. Everything else is for version 2
/// alone and does nothing in version 1; there, the application protocol (ALPN) is always told when
/// it is known. What does not fit into a header of 65,551 bytes is left out. Receivers take less
/// than that: most of them 4 to 16 KiB.
///
/// ```
/// use bartizan_net::SendProxy;
///
/// let send = SendProxy::v2().authority(true).cert_cn(true).crc32c(true);
/// ```
#[derive(Clone)]
pub struct SendProxy {
    version: ProxyVersion,
    authority: bool,
    crc32c: bool,
    ssl: bool,
    cert_cn: bool,
    ssl_cipher: bool,
    client_cert: bool,
    relay: bool,
    unique_id: Option<Arc<UniqueId>>,
    tlvs: Vec<u8>,
}

type UniqueId = dyn Fn(&ConnInfo) -> Option<Bytes> + Send + Sync;

impl SendProxy {
    /// Version 1, a line of text: addresses and nothing else.
    pub fn v1() -> Self {
        Self::new(ProxyVersion::V1)
    }

    /// Version 2, with no more than addresses and application protocol.
    pub fn v2() -> Self {
        Self::new(ProxyVersion::V2)
    }

    fn new(version: ProxyVersion) -> Self {
        Self {
            version,
            authority: false,
            crc32c: false,
            ssl: false,
            cert_cn: false,
            ssl_cipher: false,
            client_cert: false,
            relay: false,
            unique_id: None,
            tlvs: Vec::new(),
        }
    }

    /// Whether to tell the host name that the client asked for (SNI), in the handshake or in the
    /// [`ClientHello`](crate::ClientHello) that was read of a connection that is passed on. Default:
    /// no.
    pub fn authority(self, on: bool) -> Self {
        Self { authority: on, ..self }
    }

    /// Whether to add a checksum. Default: no.
    pub fn crc32c(self, on: bool) -> Self {
        Self { crc32c: on, ..self }
    }

    /// Names each connection by what `name` makes of it; at most 128 bytes, or none are sent.
    /// Default: none.
    pub fn unique_id(
        self,
        name: impl Fn(&ConnInfo) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self { unique_id: Some(Arc::new(name)), ..self }
    }

    /// Whether to tell of the client's TLS connection: that there is one, its version, and whether
    /// the client has proven who it is. Default: no.
    ///
    /// The result of the verification is 0 only if the client showed a good certificate, as the
    /// specification says; HAProxy tells 0 also when it showed none.
    pub fn ssl(self, on: bool) -> Self {
        Self { ssl: on, ..self }
    }

    /// Whether to tell the common name of the client's certificate; turns [`ssl`](Self::ssl) on
    /// too. Default: no.
    pub fn cert_cn(self, on: bool) -> Self {
        Self { cert_cn: on, ..self }
    }

    /// Whether to tell the cipher, by its IANA name; turns [`ssl`](Self::ssl) on too. Default: no.
    pub fn ssl_cipher(self, on: bool) -> Self {
        Self { ssl_cipher: on, ..self }
    }

    /// Whether to hand on the client's certificate, DER; turns [`ssl`](Self::ssl) on too. Default:
    /// no.
    pub fn client_cert(self, on: bool) -> Self {
        Self { client_cert: on, ..self }
    }

    /// Adds a TLV to every header, after the others.
    ///
    /// # Errors
    ///
    /// If the kind is CRC32C, if the value is none of its kind, or if all of them together do not
    /// fit into a header.
    pub fn tlv(mut self, kind: u8, value: &[u8]) -> Result<Self, ProxyHeaderError> {
        let so_far = ProxyHeader::new(ProxyVersion::V2, ProxyAddresses::Unspecified);
        let mut all = ProxyHeader { tlvs: self.tlvs, ..so_far };
        all.push(kind, value)?;
        self.tlvs = all.tlvs;
        Ok(self)
    }

    /// Whether to hand on the TLVs of the header that the connection came with. Default: no.
    ///
    /// Not handed on are its checksum, its padding, and kinds that this header has already: what
    /// is known here is better than what was heard.
    pub fn relay(self, on: bool) -> Self {
        Self { relay: on, ..self }
    }

    /// The header that speaks for a connection.
    pub fn header_for(&self, info: &ConnInfo) -> Bytes {
        let addresses = ProxyAddresses::tcp(info.peer(), info.local());
        let mut header = ProxyHeader::new(self.version, addresses);
        if self.version == ProxyVersion::V2 {
            self.add_tlvs(&mut header, info);
        }
        header.to_bytes()
    }

    /// The header of the balancer's own connections, e.g. health checks: `LOCAL`, or in version 1
    /// `PROXY UNKNOWN`. Nothing more is in it.
    pub fn local(&self) -> Bytes {
        match self.version {
            ProxyVersion::V1 => {
                ProxyHeader::new(self.version, ProxyAddresses::Unspecified).to_bytes()
            }
            ProxyVersion::V2 => ProxyHeader::local().to_bytes(),
        }
    }

    fn add_tlvs(&self, header: &mut ProxyHeader, info: &ConnInfo) {
        if self.crc32c {
            // First, so that what follows leaves room for it.
            if let Ok(summed) = header.clone().with_crc32c() {
                *header = summed;
            }
        }
        if let Some(alpn) = info.tls().and_then(|tls| tls.alpn.as_ref()) {
            add(header, ProxyTlv::ALPN, alpn);
        }
        if let Some(sni) = server_name(info).filter(|_| self.authority) {
            add(header, ProxyTlv::AUTHORITY, sni.as_bytes());
        }
        if let Some(id) = self.unique_id.as_ref().and_then(|name| name(info)) {
            add(header, ProxyTlv::UNIQUE_ID, &id);
        }
        if let Some(tls) = info.tls().filter(|_| self.tells_of_tls()) {
            self.add_ssl(header, tls);
        }
        for own in ProxyTlvs::new(&self.tlvs) {
            add(header, own.kind, own.value);
        }
        if let Some(received) = info.proxy_header().filter(|_| self.relay) {
            let known = header.clone();
            let is_news = |heard: &ProxyTlv<'_>| {
                heard.kind != ProxyTlv::NOOP && known.tlv(heard.kind).is_none()
            };
            for heard in received.tlvs().filter(is_news) {
                add(header, heard.kind, heard.value);
            }
        }
    }

    fn add_ssl(&self, header: &mut ProxyHeader, tls: &TlsInfo) {
        let client = match &tls.client {
            None => ProxySsl::CLIENT_SSL,
            Some(_) if tls.resumed => ProxySsl::CLIENT_SSL | ProxySsl::CERT_SESS,
            Some(_) => ProxySsl::CLIENT_SSL | ProxySsl::CERT_CONN | ProxySsl::CERT_SESS,
        };
        let verify = u32::from(tls.client.is_none());
        let mut value = tlv::ssl_start(client, verify);
        let who = tls.client.as_ref();
        let name = who.filter(|_| self.cert_cn).and_then(|who| who.common_name.as_deref());
        let leaf = who.filter(|_| self.client_cert).and_then(|who| who.chain.first());
        let subs = [
            (ProxyTlv::SSL_VERSION, tls.version.map(str::as_bytes)),
            (ProxyTlv::SSL_CN, name.map(str::as_bytes)),
            (ProxyTlv::SSL_CIPHER, tls.cipher.filter(|_| self.ssl_cipher).map(str::as_bytes)),
            (ProxyTlv::SSL_CLIENT_CERT, leaf.map(Vec::as_slice)),
        ];
        let room = ProxyHeader::MAX_LENGTH
            .saturating_sub(super::v2::length(header) + tlv::HEAD_LENGTH)
            .min(u16::MAX.into());
        for (kind, sub) in subs {
            // One that is too long takes neither the others nor the whole TLV with it.
            let fits = |sub: &&[u8]| value.len() + tlv::HEAD_LENGTH + sub.len() <= room;
            if let Some(sub) = sub.filter(fits)
                && let Err(error) = tlv::write(&mut value, kind, sub)
            {
                tracing::debug!(kind, %error, "sub-TLV left out of a PROXY header");
            }
        }
        add(header, ProxyTlv::SSL, &value);
    }

    fn tells_of_tls(&self) -> bool {
        self.ssl || self.cert_cn || self.ssl_cipher || self.client_cert
    }
}

impl fmt::Debug for SendProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendProxy")
            .field("version", &self.version)
            .field("authority", &self.authority)
            .field("crc32c", &self.crc32c)
            .field("ssl", &self.tells_of_tls())
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

fn server_name(info: &ConnInfo) -> Option<&str> {
    match info.tls() {
        Some(tls) => tls.sni.as_deref(),
        None => info.client_hello()?.server_name(),
    }
}

fn add(header: &mut ProxyHeader, kind: u8, value: &[u8]) {
    if let Err(error) = header.push(kind, value) {
        tracing::debug!(kind, %error, "TLV left out of a PROXY header");
    }
}

#[cfg(test)]
mod tests;

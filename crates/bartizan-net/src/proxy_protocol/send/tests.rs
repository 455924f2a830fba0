use std::net::SocketAddr;

use super::*;
use crate::{ClientIdentity, HelloProgress, HelloReader, Parsed};

fn info() -> ConnInfo {
    let of = |text: &str| text.parse::<SocketAddr>().unwrap();
    ConnInfo::new(of("192.0.2.7:5000"), of("198.51.100.1:443"))
}

fn tls() -> TlsInfo {
    TlsInfo {
        sni: Some("a.test".into()),
        alpn: Some((*b"h2").into()),
        version: Some("TLSv1.3"),
        cipher: Some("TLS13_AES_256_GCM_SHA384"),
        ..TlsInfo::default()
    }
}

fn with_tls(tls: TlsInfo) -> ConnInfo {
    let mut info = info();
    info.set_tls(tls);
    info
}

fn client(der: Vec<u8>) -> Arc<ClientIdentity> {
    let mut client = ClientIdentity::new(vec![der, vec![9]]);
    client.common_name = Some("web 1".into());
    Arc::new(client)
}

fn read(bytes: &[u8]) -> ProxyHeader {
    match ProxyHeader::parse_within(bytes, ProxyHeader::MAX_LENGTH) {
        Ok(Parsed::Complete { header, length }) if length == bytes.len() => header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn version_1_tells_the_addresses_alone() {
    let send = SendProxy::v1().authority(true).ssl(true).crc32c(true).relay(true);
    let line = "PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n";
    assert_eq!(send.header_for(&with_tls(tls())), line);
    assert_eq!(send.local(), "PROXY UNKNOWN\r\n");
}

#[test]
fn version_2_tells_the_application_protocol_and_nothing_unasked() {
    let mut full = tls();
    full.client = Some(client(vec![1]));
    let header = read(&SendProxy::v2().header_for(&with_tls(full)));
    assert_eq!(header.endpoints(), Some((info().peer(), info().local())));
    let kinds: Vec<_> = header.tlvs().map(|tlv| tlv.kind).collect();
    assert_eq!((kinds, header.alpn()), (vec![ProxyTlv::ALPN], Some(&b"h2"[..])));
    assert!(!header.has_crc32c());
    assert_eq!(read(&SendProxy::v2().header_for(&info())).tlvs().count(), 0);
}

#[test]
fn the_name_of_a_connection_that_is_passed_on_is_that_of_its_hello() {
    let hello =
        bartizan_testkit::client_hellos::RECORDED.iter().find(|hello| hello.server_name.is_some());
    let hello = HelloReader::new(16 * 1024).push(hello.unwrap().bytes);
    let Ok(HelloProgress::Hello(hello)) = hello else { panic!("{hello:?}") };
    let (name, mut info) = (hello.server_name().map(str::to_owned), info());
    info.set_client_hello(Arc::new(hello));
    let header = |info: &ConnInfo| read(&SendProxy::v2().authority(true).header_for(info));
    assert_eq!(header(&info).authority(), name.as_deref());
    assert_eq!(read(&SendProxy::v2().header_for(&info)).tlvs().count(), 0);
    info.set_tls(tls());
    assert_eq!(header(&info).authority(), Some("a.test"), "what the handshake says comes first");
}

#[test]
fn each_option_adds_its_own() {
    let info = with_tls(tls());
    let header = |send: SendProxy| read(&send.header_for(&info));
    assert_eq!(header(SendProxy::v2().authority(true)).authority(), Some("a.test"));
    assert!(header(SendProxy::v2().crc32c(true)).has_crc32c());
    let named = SendProxy::v2().unique_id(|info| Some(info.peer().to_string().into()));
    assert_eq!(header(named).unique_id(), Some(&b"192.0.2.7:5000"[..]));
    let too_long = SendProxy::v2().unique_id(|_| Some(vec![0; 129].into()));
    assert_eq!(header(too_long).unique_id(), None);
    let own = SendProxy::v2().tlv(0xe0, b"x").unwrap();
    assert_eq!(header(own).tlv(0xe0), Some(&b"x"[..]));
    assert!(SendProxy::v2().tlv(ProxyTlv::CRC32C, &[0; 4]).is_err());
    let local = read(&SendProxy::v2().crc32c(true).authority(true).local());
    assert_eq!(local, ProxyHeader::local());
}

#[test]
fn what_is_told_of_tls_is_what_was_asked_for() {
    let of = |send: SendProxy, tls: TlsInfo| read(&send.header_for(&with_tls(tls)));
    let header = of(SendProxy::v2().ssl(true), tls());
    let ssl = header.ssl().unwrap();
    assert_eq!((ssl.client(), ssl.verify(), ssl.version()), (1, 1, Some("TLSv1.3")));
    assert_eq!((ssl.tlvs().count(), ssl.is_verified()), (1, false));

    let known = TlsInfo { client: Some(client(vec![0x30; 99])), ..tls() };
    let header = of(SendProxy::v2().cert_cn(true).ssl_cipher(true), known.clone());
    let ssl = header.ssl().unwrap();
    assert_eq!((ssl.client(), ssl.is_verified()), (7, true));
    assert_eq!(ssl.common_name(), Some("web 1"));
    assert_eq!(ssl.cipher(), Some("TLS13_AES_256_GCM_SHA384"));
    assert_eq!(ssl.client_certificate(), None);

    let resumed = TlsInfo { resumed: true, ..known };
    let header = of(SendProxy::v2().client_cert(true), resumed);
    let ssl = header.ssl().unwrap();
    assert_eq!((ssl.client(), ssl.is_verified(), ssl.common_name()), (5, true, None));
    assert_eq!(ssl.client_certificate(), Some(&[0x30; 99][..]));

    assert!(read(&SendProxy::v2().ssl(true).header_for(&info())).ssl().is_none());
}

#[test]
fn a_certificate_that_does_not_fit_leaves_the_rest() {
    for length in [65_400, 65_535, 70_000] {
        let known = TlsInfo { client: Some(client(vec![0; length])), ..tls() };
        let send = SendProxy::v2().client_cert(true).cert_cn(true).crc32c(true).authority(true);
        let header = read(&send.header_for(&with_tls(known)));
        let ssl = header.ssl().unwrap();
        assert_eq!(ssl.common_name(), Some("web 1"));
        assert_eq!(ssl.client_certificate().is_some(), length == 65_400);
        assert!(header.has_crc32c());
    }
}

#[test]
fn what_was_received_is_handed_on_if_asked_and_not_known_better() {
    let heard = ProxyHeader::new(
        ProxyVersion::V2,
        ProxyAddresses::tcp("192.0.2.9:1".parse().unwrap(), "192.0.2.10:2".parse().unwrap()),
    );
    let heard = heard
        .with_tlv(ProxyTlv::ALPN, b"http/1.1")
        .and_then(|header| header.with_tlv(0xe0, b"1"))
        .and_then(|header| header.with_tlv(0xe0, b"2"))
        .and_then(|header| header.with_tlv(0xe1, b"heard"))
        .and_then(|header| header.with_tlv(ProxyTlv::NOOP, b"0"))
        .and_then(ProxyHeader::with_crc32c)
        .unwrap();
    let mut info = with_tls(tls());
    info.set_proxy_header(Arc::new(heard));

    let silent = read(&SendProxy::v2().header_for(&info));
    assert_eq!(silent.tlvs().count(), 1);
    assert_eq!(silent.endpoints().unwrap().0, "192.0.2.9:1".parse().unwrap());

    let send = SendProxy::v2().relay(true).tlv(0xe1, b"own").unwrap();
    let header = read(&send.header_for(&info));
    let tlvs: Vec<_> = header.tlvs().map(|tlv| (tlv.kind, tlv.value)).collect();
    let expected: [(u8, &[u8]); 4] = [(1, b"h2"), (0xe1, b"own"), (0xe0, b"1"), (0xe0, b"2")];
    assert_eq!(tlvs, expected);
    assert!(!header.has_crc32c());
    assert!(read(&send.crc32c(true).header_for(&info)).has_crc32c());
}

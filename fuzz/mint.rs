//! Writes fixtures and seeds anew: `cargo run --features mint --bin mint` in this folder.
//!
//! All keys are made here and now, for tests alone. Seeds that were added by hand stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan_fuzz::fixtures::TICKET_SECRET;
use bartizan_fuzz::{now, to_pem};
use bartizan_testkit::{Crl, KeyType, Leaf, Minted, Ocsp, TestCa};
use bartizan_tls::TicketKeys;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

fn main() {
    let ca = TestCa::new("fuzz root");
    let a = ca.issue(Leaf::server("a.test"));
    let a_rsa = ca.issue(Leaf::server("a.test").key(KeyType::Rsa2048));
    let p384 = ca.issue(Leaf::server("c.test").key(KeyType::P384));
    let b = ca.intermediate("fuzz intermediate").issue(Leaf::server("*.b.test"));
    fixtures(&ca, [&a, &a_rsa, &p384, &b]);
    certificates(&ca, &a, &b);
    keys(&a, &a_rsa, &p384);
    names();
    revocation(&ca, &a);
    identities(&ca);
    tickets();
    sessions(&ca, &a);
    hellos(&ca);
}

fn fixtures(ca: &TestCa, [a, a_rsa, p384, b]: [&Minted; 4]) {
    let write = |name: &str, bytes: &[u8]| put("fixtures", name, bytes);
    write("ca.der", ca.cert_der());
    write("ca.pem", ca.cert_pem().as_bytes());
    write("p256.der", a.cert_der());
    write("p384.der", p384.cert_der());
    write("rsa.der", a_rsa.cert_der());
    write("a-p256.pem", a.bundle_pem().as_bytes());
    write("b-p256.pem", b.bundle_pem().as_bytes());
    write("a-rsa.pem", a_rsa.bundle_pem().as_bytes());
}

fn certificates(ca: &TestCa, a: &Minted, b: &Minted) {
    let reversed = b.key_pem() + &ca.cert_pem() + &b.chain_pem();
    seed("identity", "leaf", a.bundle_pem());
    seed("identity", "chain", b.bundle_pem());
    seed("identity", "out-of-order", &reversed);
    seed("pem", "chain", b.bundle_pem());
    seed("pem", "list", ca.crl(Crl::new().revoke(a)));
    seed("pem", "no-end", a.bundle_pem().replace("-----END", "-----AND"));
    let encrypted = "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\n\r\nAAAA\r\n\
                     -----END RSA PRIVATE KEY-----\r\n";
    seed("pem", "encrypted", encrypted);
    seed("client_ca", "root", ca.cert_pem());
    seed("client_ca", "leaf-and-root", a.cert_pem() + &ca.cert_pem());
    seed("client_ca", "bundle", reversed);
    seed("der", "certificate", a.cert_der());
    seed("der", "list", ca.crl_der(Crl::new().revoke(a)));
}

fn keys(a: &Minted, a_rsa: &Minted, p384: &Minted) {
    let tagged = |format: u8, key: &[u8]| [&[format], key].concat();
    for (name, minted) in [("p256", a), ("p384", p384), ("rsa", a_rsa)] {
        seed("key", &format!("{name}-pkcs8"), tagged(0, minted.key_der().secret_der()));
    }
    // A PrivateKeyInfo holds the older form, last.
    let pkcs8 = a_rsa.key_der();
    let inner = pkcs8.secret_der().windows(2).rposition(|w| w == [0x30, 0x82]);
    seed("key", "rsa-pkcs1", tagged(1, &pkcs8.secret_der()[inner.expect("a key")..]));
    let pkcs8 = a.key_der();
    let start = pkcs8.secret_der().windows(5).position(|w| w == [2, 1, 1, 4, 32]);
    let inner = &pkcs8.secret_der()[start.expect("a key")..];
    let curve = [0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let (secret, public) = inner.split_at(37);
    let body = [secret, &curve, public].concat();
    seed("key", "p256-sec1", tagged(2, &[&[0x30, body.len() as u8], &*body].concat()));
}

fn names() {
    for (name, text) in [
        ("plain", "WWW.Example.com."),
        ("wildcard", "*.b.test"),
        ("international", "*.B\u{fc}cher.example"),
        ("underscore", "_dmarc.a.test"),
    ] {
        seed("host_name", name, text);
    }
    for (name, text) in [
        ("name", "A.test:443"),
        ("v4", "127.0.0.1:80"),
        ("v6", "[2001:db8::1]:8443"),
        ("dot", "a.test.:"),
        ("user", "me@a.test"),
    ] {
        seed("authority", name, text);
    }
}

fn revocation(ca: &TestCa, a: &Minted) {
    let responder = ca.issue(Leaf::new("responder").for_ocsp());
    let beside = ca.issue(Leaf::server("d.test"));
    seed("ocsp", "good", ca.ocsp(a, Ocsp::good()));
    seed("ocsp", "revoked", ca.ocsp(a, Ocsp::revoked(now() - Duration::from_secs(60))));
    seed("ocsp", "by-responder", ca.ocsp(a, Ocsp::good().by(&responder)));
    seed("ocsp", "several", ca.ocsp(a, Ocsp::unknown().beside(&beside).explicit_version()));
    seed("der", "ocsp", ca.ocsp(a, Ocsp::good()));
    let other = TestCa::new("another root");
    seed("crl", "der", ca.crl_der(Crl::new().revoke(a)));
    seed("crl", "pem", ca.crl(Crl::new().revoke(a)));
    seed("crl", "two", ca.crl(Crl::new()) + &other.crl(Crl::new().this_update(now())));
    seed("crl", "of-authorities", ca.crl_der(Crl::new().of_authorities("http://a.test/crl")));
}

fn identities(ca: &TestCa) {
    let all = Leaf::client("someone").dns("A.test").uri("spiffe://a.test/b").email("c@a.test");
    let all = all.ip([127, 0, 0, 1]).second_common_name("someone else").serial(&[0, 1]);
    seed("client_identity", "all", ca.issue(all).cert_der());
    seed("client_identity", "name", ca.issue(Leaf::client("n\0ul")).cert_der());
}

fn tickets() {
    let line = |byte: u8, len: usize| {
        let text = to_pem("", &vec![byte; len]);
        text.lines().filter(|line| !line.starts_with('-')).collect::<String>() + "\n"
    };
    let file = |len| [1, 2, 3].map(|byte| line(byte, len)).concat();
    seed("ticket_keys", "haproxy-48", file(48));
    seed("ticket_keys", "haproxy-80", file(80));
    seed("ticket_keys", "mixed", line(1, 48) + &file(80));
    seed("ticket_keys", "nginx-48", [7; 48]);
    seed("ticket_keys", "nginx-80", [7; 80]);
    let keys = TicketKeys::derived(TICKET_SECRET).expect("long enough");
    let ticketer = keys.ticketer([1; 32], Arc::new(now()));
    seed("ticket", "opens", ticketer.encrypt(b"session").expect("a ticket"));
    seed("ticket", "empty", ticketer.encrypt(b"").expect("a ticket"));
    seed("ticket", "plain", "session");
}

/// What rustls itself writes.
fn sessions(ca: &TestCa, server: &Minted) {
    let client = ca.issue(Leaf::client("someone"));
    for (name, config) in
        [("bare", ca.client_config(&["h2"])), ("client", ca.client_config_as(&client, &[]))]
    {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(ca.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let kept = Arc::new(Kept::default());
        let mut served = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().expect("roots"))
            .with_single_cert(server.chain_der(), server.key_der())
            .expect("a certificate");
        served.ticketer = Arc::clone(&kept) as Arc<dyn ProducesTickets>;
        shake_hands(config, served);
        let sessions = kept.0.lock().expect("one thread");
        seed("session", name, sessions.first().expect("a ticket"));
    }
}

fn shake_hands(client: Arc<ClientConfig>, server: ServerConfig) {
    let mut client = ClientConnection::new(client, "a.test".try_into().expect("a name"))
        .expect("a configuration");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a configuration");
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).expect("memory");
            server.process_new_packets().expect("a good client");
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).expect("memory");
            client.process_new_packets().expect("a good server");
        }
    }
}

/// Keeps the sessions that tickets are made of.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl ProducesTickets for Kept {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        60
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().expect("one thread").push(plain.to_vec());
        Some(vec![0; 16])
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

fn hellos(ca: &TestCa) {
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .expect("versions")
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    let old = Arc::new(old);
    for (seed_name, config, name) in [
        ("tls13", ca.client_config(&["h2", "http/1.1"]), "a.test"),
        ("tls12", Arc::clone(&old), "a.test"),
        ("wildcard", Arc::clone(&old), "x.b.test"),
        ("unknown", Arc::clone(&old), "unknown.test"),
        ("no-name", old, "127.0.0.1"),
    ] {
        let mut client = ClientConnection::new(config, name.try_into().expect("a name"))
            .expect("a configuration");
        let mut record = Vec::new();
        client.write_tls(&mut record).expect("memory");
        // Without the headers of the record and of the message.
        seed("client_hello", seed_name, &record[9..]);
    }
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    put(&format!("corpus/{target}"), name, bytes.as_ref());
}

fn put(folder: &str, name: &str, bytes: &[u8]) {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), bytes).expect("a file");
}

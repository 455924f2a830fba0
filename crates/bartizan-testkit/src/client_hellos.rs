//! What real TLS clients say first, recorded. `client_hellos/README.md` says how.

/// The first bytes of one client's connection: one ClientHello in one TLS record.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// Which client it was, and its version.
    pub name: &'static str,
    /// All that it sent before it waited for an answer.
    pub bytes: &'static [u8],
    /// The host that it asked for.
    pub server_name: Option<&'static str>,
    /// The application protocols that it offered.
    pub alpn: &'static [&'static str],
}

/// All recordings.
pub static RECORDED: &[Recorded] = &[
    recorded("curl-7.88", include_bytes!("client_hellos/curl-7.88.bin"), NAME, WEB),
    recorded("openssl-3.0-tls12", include_bytes!("client_hellos/openssl-3.0-tls12.bin"), NAME, &[]),
    recorded("openssl-3.0-tls13", include_bytes!("client_hellos/openssl-3.0-tls13.bin"), NAME, WEB),
    recorded(
        "openssl-3.0-no-name",
        include_bytes!("client_hellos/openssl-3.0-no-name.bin"),
        None,
        &[],
    ),
    recorded("python-3.11", include_bytes!("client_hellos/python-3.11.bin"), NAME, &[]),
    recorded("gnutls-3.7", include_bytes!("client_hellos/gnutls-3.7.bin"), NAME, WEB),
    recorded("go-1.19", include_bytes!("client_hellos/go-1.19.bin"), NAME, WEB),
    recorded("rustls-0.23", include_bytes!("client_hellos/rustls-0.23.bin"), NAME, WEB),
    recorded("chromium-156", include_bytes!("client_hellos/chromium-156.bin"), NAME, WEB),
    recorded(
        "firefox-153",
        include_bytes!("client_hellos/firefox-153.bin"),
        Some("localhost"),
        WEB,
    ),
];

const fn recorded(
    name: &'static str,
    bytes: &'static [u8],
    server_name: Option<&'static str>,
    alpn: &'static [&'static str],
) -> Recorded {
    Recorded { name, bytes, server_name, alpn }
}

/// What most of them were told to ask for.
const NAME: Option<&str> = Some("www.example.com");

const WEB: &[&str] = &["h2", "http/1.1"];

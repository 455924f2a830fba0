//! What is printed.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::demo::DemoServer;

/// The lines to paste, and what to expect of them.
pub(crate) fn what_to_try(listen: SocketAddr, ca_file: &Path, servers: &[DemoServer]) -> String {
    let (ca, url) = (quoted(&ca_file.to_string_lossy()), url(listen));
    let mut kills = String::new();
    for server in servers {
        let (name, addr, pid) = (server.name(), server.addr(), server.pid());
        let _ = write!(kills, "  {name}, process {pid} at {addr}:\n    kill {pid}\n");
    }
    format!(
        "\
Listening on {listen}. TLS ends here; {count} servers take turns. In another terminal:

    curl --cacert {ca} {url}

Each answer says which server gave it (and so does its header x-served-by: add -i).
To watch them take turns:

    while sleep 0.2; do curl -sSf --cacert {ca} {url} || echo FAILED; done

Kill one of them while you watch:

{kills}
No request fails: the others take over what a dead server did not answer. After three failed
checks, one a second, a line here says `backend is down`, and it is not tried any more.

Ctrl-C ends everything.",
        count = servers.len(),
    )
}

/// That it cannot listen on `addr`, why, and what to do.
pub(crate) fn cannot_listen(addr: SocketAddr, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "another program has this port".to_owned(),
        _ => error.to_string(),
    };
    let other = if addr.port() == 9443 { 10443 } else { 9443 };
    let other = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), other);
    format!(
        "quickstart: cannot listen on {addr}: {why}. Choose another address:\n\n    \
         cargo run --release --example quickstart -- --listen {other}"
    )
}

fn url(listen: SocketAddr) -> String {
    let ip = listen.ip();
    let local = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    if ip.is_unspecified() || local.contains(&ip) {
        format!("https://localhost:{}/", listen.port())
    } else {
        format!("https://{listen}/")
    }
}

/// As a shell takes it for one word.
fn quoted(path: &str) -> String {
    if path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b)) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

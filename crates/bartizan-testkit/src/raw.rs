//! Just enough HTTP/1.1 to know where a request ends, on a bare TCP stream.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The requests that arrive on one connection.
///
/// All methods give `None` when the connection cannot go on, which is not an error here: who
/// misbehaves has to expect that.
#[derive(Debug)]
pub(crate) struct Requests {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Requests {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buf: Vec::new() }
    }

    /// Reads the next request's head, with its blank line.
    pub(crate) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buf, b"\r\n\r\n") {
                let head = self.buf.drain(..at + 4).collect();
                return String::from_utf8(head).ok();
            }
            if self.buf.len() > MAX_HEAD {
                return None;
            }
            self.fill().await?;
        }
    }

    /// Reads on to the end of the body that `head` announces.
    pub(crate) async fn skip_body(&mut self, head: &str) -> Option<()> {
        if let Some(len) = header(head, "content-length") {
            return self.skip(len.parse().ok()?).await;
        }
        if header(head, "transfer-encoding").is_none() {
            return Some(());
        }
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            match u64::from_str_radix(size, 16).ok()? {
                0 => break,
                // The chunk and the line end after it.
                size => self.skip(size + 2).await?,
            }
        }
        // Trailers, if any, up to the blank line.
        while !self.line().await?.is_empty() {}
        Some(())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    /// Reads and discards until the peer closes.
    pub(crate) async fn drain(&mut self) {
        while self.fill().await.is_some() {
            self.buf.clear();
        }
    }

    /// Closes with a reset instead of an end.
    pub(crate) fn reset(self) {
        reset(self.stream);
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buf, b"\r\n") {
                let line: Vec<u8> = self.buf.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).ok();
            }
            self.fill().await?;
        }
    }

    async fn skip(&mut self, mut len: u64) -> Option<()> {
        while len > 0 {
            if self.buf.is_empty() {
                self.fill().await?;
            }
            let part = len.min(self.buf.len() as u64);
            self.buf.drain(..part as usize);
            len -= part;
        }
        Some(())
    }

    async fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; READ];
        match self.stream.read(&mut chunk).await {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.buf.extend_from_slice(&chunk[..n]);
                Some(())
            }
        }
    }
}

/// Closes `stream` with a reset instead of an end.
pub(crate) fn reset(stream: TcpStream) {
    // Fails only on a connection that is already gone.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// The value of the first header `name`, which is in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Read at once. Also how much of a body may be read with its head.
const READ: usize = 4096;

/// More than any proxy sends; a bound all the same.
const MAX_HEAD: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::Requests;
    use crate::listen::bind;

    async fn requests(bytes: &str) -> Requests {
        let listener = bind("127.0.0.1:0".parse().unwrap());
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(bytes.as_bytes()).await.unwrap();
        Requests::new(server)
    }

    #[tokio::test]
    async fn pipelined_requests_come_one_by_one() {
        let mut requests = requests("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\na: b\r\n\r\n").await;

        assert_eq!(requests.head().await.as_deref(), Some("GET /1 HTTP/1.1\r\n\r\n"));
        assert_eq!(requests.head().await.as_deref(), Some("GET /2 HTTP/1.1\r\na: b\r\n\r\n"));
        assert_eq!(requests.head().await, None);
    }

    #[tokio::test]
    async fn bodies_of_both_kinds_are_skipped() {
        let sized = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3;x\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nt: u\r\n\r\n";
        let mut requests = requests(&format!("{sized}{chunked}{sized}")).await;

        for _ in 0..3 {
            let head = requests.head().await.unwrap();
            assert!(head.starts_with("POST / "), "{head:?}");
            requests.skip_body(&head).await.unwrap();
        }
        assert_eq!(requests.head().await, None);
    }
}

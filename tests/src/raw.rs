//! Clients that write bytes of their own choice.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::wait::PATIENCE;
use crate::{Client, Proxy, Site, within};

/// A TLS connection with what has been read from it and not been used.
#[derive(Debug)]
pub struct Raw {
    stream: TlsStream<TcpStream>,
    buf: Vec<u8>,
}

/// A frame of HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Its type; see the constants.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Raw {
    /// Connects and does the handshake, offering `alpn`.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub async fn connect(site: &Site, proxy: &Proxy, alpn: &[&str]) -> Self {
        let handshake = Client::handshake(proxy.addr(), site.tls(alpn));
        Self::over(within(PATIENCE, "the handshake", handshake).await.unwrap())
    }

    /// Takes a connection that is there.
    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, buf: Vec::new() }
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    ///
    /// If the proxy has closed the connection, among others.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Reads to the end of the stream, which comes within `limit`, and returns all as text.
    ///
    /// A connection that is reset counts as ended as well.
    ///
    /// # Panics
    ///
    /// If the end does not come.
    pub async fn read_to_end(&mut self, limit: Duration) -> String {
        while within(limit, "the end of the stream", self.fill()).await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buf)).into_owned()
    }

    /// Reads what has come or comes next, as text; empty at the end of the stream.
    ///
    /// # Panics
    ///
    /// If nothing comes for 30 s.
    pub async fn read_some(&mut self) -> String {
        if self.buf.is_empty() {
            within(PATIENCE, "anything", self.fill()).await;
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.buf)).into_owned()
    }

    /// Reads up to and with `mark`, and returns that as text; what follows stays.
    ///
    /// # Panics
    ///
    /// If the stream ends before, or nothing comes for 30 s.
    pub async fn read_until(&mut self, mark: &str) -> String {
        loop {
            let found = self.buf.windows(mark.len()).position(|bytes| bytes == mark.as_bytes());
            if let Some(at) = found {
                let text = self.buf.drain(..at + mark.len()).collect();
                return String::from_utf8(text).unwrap();
            }
            let more = within(PATIENCE, mark, self.fill()).await;
            assert!(more, "{:?} and the end", String::from_utf8_lossy(&self.buf));
        }
    }

    /// Reads one frame of HTTP/2; `None` at the end of the stream.
    ///
    /// # Panics
    ///
    /// If nothing comes for 30 s.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(&[a, b, c, kind, flags, s1, s2, s3, s4]) = self.buf.first_chunk() {
                let end = FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buf.len() >= end {
                    let payload = self.buf.drain(..end).skip(FRAME_HEAD).collect();
                    let stream = u32::from_be_bytes([s1, s2, s3, s4]);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            if !within(PATIENCE, "a frame", self.fill()).await {
                return None;
            }
        }
    }

    /// Starts HTTP/2.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub async fn start_h2(&mut self) {
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        self.write(frame(SETTINGS, 0, 0, &[])).await.unwrap();
    }

    /// GETs `path` of `localhost` on a new stream.
    ///
    /// # Panics
    ///
    /// If the connection is gone.
    pub async fn get_h2(&mut self, stream: u32, path: &str) {
        // HPACK (RFC 7541): GET and https from the static table, path and authority as literals.
        let mut block = vec![0x82, 0x87];
        for (index, value) in [(0x04, path), (0x01, "localhost")] {
            block.extend([index, u8::try_from(value.len()).unwrap()]);
            block.extend(value.as_bytes());
        }
        self.write(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)).await.unwrap();
    }

    /// Whether more came, and not the end.
    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buf).await, Ok(1..))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const FRAME_HEAD: usize = 9;

/// The frame that carries a body.
pub const DATA: u8 = 0;

/// The frame that carries a head.
pub const HEADERS: u8 = 1;

/// The frame that ends a stream with an error.
pub const RST_STREAM: u8 = 3;

/// The frame that carries settings.
pub const SETTINGS: u8 = 4;

/// The frame that announces the end of the connection.
pub const GOAWAY: u8 = 7;

/// The flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;

const END_HEADERS: u8 = 4;

//! The demo servers: this program once more, with a hidden argument.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{self, ChildStdin, Command, ExitCode, Stdio};
use std::thread::{self, JoinHandle};

use bartizan::prelude::*;
use http::{Request, Response};
use tokio::net::TcpListener;

/// Serves plain HTTP on a port of the system's choice, until the parent is gone.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(name: &str) -> Result<ExitCode, Box<dyn Error>> {
    // The parent writes nothing, so reading ends when its end of the pipe does: with the parent,
    // however that ends.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let name = name.to_owned();
    let hello = tower::service_fn(move |request| {
        let answer = answer(&name, &request);
        async { Ok::<_, Infallible>(answer) }
    });
    serve(listener, ServeHttp::new(hello)).await?;
    Ok(ExitCode::SUCCESS)
}

fn answer<B>(name: &str, request: &Request<B>) -> Response<String> {
    let field =
        |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("?");
    let body = format!(
        "{name} (process {}) answers {} {} to {} over {}\n",
        process::id(),
        request.method(),
        request.uri().path(),
        field("x-forwarded-for"),
        field("x-forwarded-proto"),
    );
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    if let Ok(name) = name.parse() {
        response.headers_mut().insert("x-served-by", name);
    }
    response
}

/// A demo server's process. Dropped, it ends it, and waits until it has.
pub(crate) struct DemoServer {
    name: &'static str,
    addr: SocketAddr,
    pid: u32,
    alive: Option<ChildStdin>,
    ended: Option<JoinHandle<()>>,
}

impl DemoServer {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(name: &'static str) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--demo-server", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal goes to a whole group. Requests that the balancer has still to
            // finish then need their servers.
            .process_group(0)
            .spawn()?;
        let (pid, alive, stdout) = (child.id(), child.stdin.take(), child.stdout.take());
        // Waited for at once, so that a killed one leaves no zombie.
        let ended = Some(thread::spawn(move || drop(child.wait())));
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let addr =
            line.trim().parse().map_err(|_| format!("the demo server {name} does not start"))?;
        Ok(Self { name, addr, pid, alive, ended })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(ended) = self.ended.take() {
            let _ = ended.join();
        }
    }
}

//! What health checks cost: `cargo bench -p bartizan-benches --bench probes`.
//!
//! The real checks, on the real clock, on one thread. First 10,000 backends are probed every 2 s, by a
//! probe that answers at once, so that what is left is the cost of the checks themselves: what part of
//! a core they take (user and system), and how even they are, as the largest number of probes that
//! started within 20 ms, over the mean. Then 1,000 backends are probed by TCP connections on the
//! loopback address, every 2 s; the cost is that of both ends, because the listener is in the same
//! process.

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan_balance::{Backend, CheckGuard, Checks, Cluster, Verdict};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tower::service_fn;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        instant().await?;
        tcp().await
    })
}

async fn instant() -> Result<(), Box<dyn Error>> {
    let cluster = cluster(INSTANT, |_| "192.0.2.1:80".to_owned())?;
    let started: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = Arc::clone(&started);
    let probe = service_fn(move |_: Arc<Backend>| {
        if let Ok(mut started) = noted.lock() {
            started.push(Instant::now());
        }
        std::future::ready(Ok::<_, Infallible>(Verdict::Pass))
    });
    let (share, took) = measured(cluster.check(Checks::new(probe).every(EVERY))).await?;
    let started = started.lock().map_err(|_| "a probe panicked")?;
    println!(
        "{INSTANT} instant probes every {EVERY:?}: {:.2} % of a core, {:.1} us each; {:.2} times the \
         mean at most within {WINDOW:?}",
        share * 100.0,
        share * took.as_secs_f64() * 1e6 / started.len() as f64,
        evenness(&started),
    );
    Ok(())
}

async fn tcp() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let accepts = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let cluster = cluster(TCP, |_| address.clone())?;
    let (share, took) = measured(cluster.check(Checks::tcp().every(EVERY))).await?;
    accepts.abort();
    let members = cluster.table().members().to_vec();
    let health = members.iter().filter_map(|member| cluster.health(member));
    let probes: u64 = health
        .map(|health| {
            assert_eq!(health.counts.checks_failed, 0, "{health}");
            health.counts.checks_passed
        })
        .sum();
    println!(
        "{TCP} TCP probes every {EVERY:?}: {:.2} % of a core, {:.1} us each",
        share * 100.0,
        share * took.as_secs_f64() * 1e6 / probes as f64,
    );
    Ok(())
}

/// The part of a core that the process takes while they run.
async fn measured(checks: CheckGuard) -> Result<(f64, Duration), Box<dyn Error>> {
    let (begin, before) = (Instant::now(), cpu()?);
    sleep(LENGTH).await;
    let (took, used) = (begin.elapsed(), cpu()? - before);
    drop(checks);
    Ok((used / took.as_secs_f64(), took))
}

fn cluster(
    count: usize,
    address: impl Fn(usize) -> String,
) -> Result<Cluster, bartizan_balance::ClusterError> {
    let builder = Cluster::builder("bench");
    (0..count).fold(builder, |builder, i| builder.backend(&format!("b{i}"), &address(i))).build()
}

/// The largest number of probes within a window, over the mean.
fn evenness(started: &[Instant]) -> f64 {
    let mut most = 0;
    let mut first = 0;
    for (last, at) in started.iter().enumerate() {
        while *at - started[first] >= WINDOW {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    let mean = INSTANT as f64 * WINDOW.as_secs_f64() / EVERY.as_secs_f64();
    most as f64 / mean
}

/// Seconds of processor time that the process has had, user and system (Linux).
fn cpu() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name before the last parenthesis may hold anything.
    let fields = stat.rsplit(") ").next().ok_or("stat has a name")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(ticks as f64 / TICKS)
}

const INSTANT: usize = 10_000;
const TCP: usize = 1_000;
const EVERY: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_millis(20);

/// Long enough that a tick of the processor's clock, a hundredth of a second, does not matter.
const LENGTH: Duration = Duration::from_secs(20);

/// A second, as Linux shows it to programs.
const TICKS: f64 = 100.0;

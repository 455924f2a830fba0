//! How long 50,000 certificates take to load, and what they take up:
//! `cargo bench -p bartizan-benches --bench fifty_thousand`.
//!
//! Each kind of key is loaded in a process of its own, from files that have just been written (so
//! they are in the page cache), five times. The time is the median; the memory is what the process
//! has resident more than before the first load, which it keeps.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bartizan::net::clock::{Clock, SystemClock};
use bartizan::tls::CertStore;
use bartizan_benches::{Key, fill, name};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, dir] = args.as_slice()
        && flag == LOAD
    {
        return load(Path::new(dir));
    }
    let cores = std::thread::available_parallelism()?;
    println!("{COUNT} certificates with chain and key, {cores} cores");
    for key in Key::ALL {
        let dir = tempfile::tempdir()?;
        fill(dir.path(), COUNT, key);
        print!("{:9}", key.name());
        let loaded = Command::new(std::env::current_exe()?).arg(LOAD).arg(dir.path()).output()?;
        println!("{}", String::from_utf8_lossy(&loaded.stdout).trim_end());
        if !loaded.status.success() {
            return Err(String::from_utf8_lossy(&loaded.stderr).into());
        }
    }
    Ok(())
}

fn load(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let before = resident()?;
    let (first, store) = timed(|| CertStore::open(dir))?;
    let each = (resident()? - before) / COUNT;
    let mut times = vec![first];
    for _ in 1..5 {
        times.push(timed(|| CertStore::open(dir))?.0);
    }
    times.sort();
    let (reload, _) = timed(|| store.reload())?;
    let names: Vec<String> = (0..COUNT).map(|i| name(i * 7_919 % COUNT)).collect();
    let (look_up, found) = timed(|| {
        let all = std::iter::repeat_n(&names, ROUNDS).flatten();
        Ok::<_, std::convert::Infallible>(all.filter(|name| store.serves(name)).count())
    })?;
    assert_eq!(found, COUNT * ROUNDS);
    println!(
        " load {:.2} s, {each} bytes each, reload unchanged {:.2} s, look-up {} ns",
        times[2].as_secs_f64(),
        reload.as_secs_f64(),
        look_up.as_nanos() / (COUNT * ROUNDS) as u128,
    );
    Ok(())
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(Duration, T), E> {
    let start = SystemClock.now();
    let done = work()?;
    Ok((SystemClock.now().duration_since(start).unwrap_or_default(), done))
}

/// Bytes that the process has in memory (Linux).
fn resident() -> Result<usize, Box<dyn std::error::Error>> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = pages.split(' ').nth(1).ok_or("statm has a second field")?.parse()?;
    Ok(pages * 4_096)
}

const COUNT: usize = 50_000;
const ROUNDS: usize = 20;
const LOAD: &str = "--load";

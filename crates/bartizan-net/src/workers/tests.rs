use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tower::service_fn;

use super::*;
use crate::Phase;

type Tcp = tokio::net::TcpStream;

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// What a new connection to `addr` is told before it is closed.
fn ask(addr: SocketAddr) -> String {
    let mut said = String::new();
    TcpStream::connect(addr).unwrap().read_to_string(&mut said).unwrap();
    said
}

/// A stack that is not `Send`: it counts its connections without an atomic, and says the worker's
/// index and the count.
fn counting(
    worker: Worker,
) -> impl Service<Conn<Tcp>, Response = (), Error = std::io::Error> + Clone + 'static {
    let served = Rc::new(Cell::new(0));
    service_fn(move |conn: Conn<Tcp>| {
        let served = Rc::clone(&served);
        async move {
            served.set(served.get() + 1);
            let said = format!("{}:{}", worker.index, served.get());
            conn.into_io().write_all(said.as_bytes()).await
        }
    })
}

/// Runs the workers on a thread, and `test` on this one; drains at its end, also when it panics.
fn running<F, S, T>(workers: Workers, stack: F, test: impl FnOnce() -> T) -> T
where
    F: Fn(Worker) -> S + Send + Sync,
    S: Service<Conn<Tcp>> + Clone + 'static,
    S::Error: Into<BoxError>,
{
    struct Close(Drain);
    impl Drop for Close {
        fn drop(&mut self) {
            self.0.advance(Phase::Closing);
        }
    }
    let drain = workers.drain.clone();
    thread::scope(|scope| {
        let close = Close(drain);
        let run = scope.spawn(move || workers.run(stack));
        let outcome = test();
        drop(close);
        run.join().unwrap().unwrap();
        outcome
    })
}

/// How the run ends by itself; fails when it does not.
fn ends<F, S>(workers: Workers, stack: F) -> Result<(), WorkersError>
where
    F: Fn(Worker) -> S + Send + Sync + 'static,
    S: Service<Conn<Tcp>> + Clone + 'static,
    S::Error: Into<BoxError>,
{
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(workers.run(stack)));
    end.recv_timeout(Duration::from_secs(30)).expect("the run goes on")
}

#[test]
fn every_worker_serves_every_address_with_its_own_stack() {
    let workers = Workers::bind([any(), any()], 2).unwrap();
    let addrs = workers.local_addrs().to_vec();
    assert_eq!((workers.count(), addrs.len()), (2, 2));
    assert!(addrs.iter().all(|addr| addr.port() != 0) && addrs[0] != addrs[1], "{addrs:?}");
    let made = Mutex::new(Vec::new());
    let stack = |worker: Worker| {
        let thread = thread::current().name().map(str::to_owned);
        made.lock().unwrap().push((worker.index, worker.count, thread));
        counting(worker)
    };

    let mut answers = running(workers, stack, || {
        // The system spreads connections by a hash of their ports: 40 on one side is no chance.
        (0..40).flat_map(|_| addrs.iter().map(|addr| ask(*addr))).collect::<Vec<_>>()
    });

    let mut made = made.into_inner().unwrap();
    made.sort();
    let name = |index| Some(format!("bartizan-{index}"));
    assert_eq!(made, [(0, 2, name(0)), (1, 2, name(1))], "once per worker, on its thread");
    // Each worker has counted on its own, across both addresses, and together they served all.
    answers.sort();
    let by = |index| answers.iter().filter(|said| said.starts_with(&format!("{index}:"))).count();
    assert_eq!(by(0) + by(1), 80);
    assert!(by(0) > 0 && by(1) > 0, "{answers:?}");
    answers.dedup();
    assert_eq!(answers.len(), 80, "no number was given twice by one worker");
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = Workers::bind([any()], 2).unwrap();
    let addr = taken.local_addrs()[0];
    for count in [1, 2] {
        let error = Workers::bind([any(), addr], count).unwrap_err();
        assert_eq!(error.addr(), addr);
        assert_eq!(error.io_error().kind(), std::io::ErrorKind::AddrInUse);
    }
}

#[test]
fn no_count_means_one_worker_per_core() {
    let cores = thread::available_parallelism().unwrap().get();
    assert_eq!(Workers::bind([any()], 0).unwrap().count(), cores);
}

#[test]
fn a_drain_ends_the_run_once_connections_are_done() {
    // On one address at a time: the loop of the other is done at once, and must end nothing.
    for (used, idle) in [(0, 1), (1, 0)] {
        let drain = Drain::new();
        let workers = Workers::bind([any(), any()], 2).unwrap().with_drain(drain.clone());
        let addrs = workers.local_addrs().to_vec();
        let (begun, begins) = mpsc::channel();
        // Each connection ends when its client has said one byte.
        let stack = |_| {
            let begun = begun.clone();
            service_fn(move |conn: Conn<Tcp>| {
                begun.send(()).unwrap();
                async move {
                    let mut io = conn.into_io();
                    let byte = tokio::io::AsyncReadExt::read_u8(&mut io).await?;
                    io.write_all(&[byte]).await
                }
            })
        };
        running(workers, stack, || {
            let mut client = TcpStream::connect(addrs[used]).unwrap();
            begins.recv().unwrap();
            drain.advance(Phase::Stopped);
            while TcpStream::connect(addrs[idle]).is_ok() {
                thread::yield_now();
            }
            // Its connection outlives the listener.
            client.write_all(b"x").unwrap();
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            assert_eq!(said, "x");
        });
        assert!(TcpStream::connect(addrs[used]).is_err());
    }
}

#[test]
fn the_connection_cap_is_split() {
    // 4 in all, over 2 workers with 2 addresses each: 1 apiece.
    let workers = Workers::bind([any(), any()], 2).unwrap().max_connections(4);
    let addrs = workers.local_addrs().to_vec();
    let (begun, begins) = mpsc::channel();
    let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (open, most) = (&*Box::leak(Box::new(open)), &*Box::leak(Box::new(most)));
    let stack = |worker: Worker| {
        let begun = begun.clone();
        service_fn(move |conn: Conn<Tcp>| {
            let begun = begun.clone();
            async move {
                let now = open.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                begun.send((worker.index, conn.info().local())).unwrap();
                let mut io = conn.into_io();
                let _ = tokio::io::AsyncReadExt::read_u8(&mut io).await;
                open.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>(())
            }
        })
    };
    running(workers, stack, || {
        let clients: Vec<_> =
            (0..40).flat_map(|_| addrs.iter().map(|a| TcpStream::connect(a).unwrap())).collect();
        let mut first: Vec<_> = (0..4).map(|_| begins.recv().unwrap()).collect();
        first.sort();
        let mut each: Vec<_> = (0..2).flat_map(|w| addrs.iter().map(move |a| (w, *a))).collect();
        each.sort();
        assert_eq!(first, each, "one connection per worker and address");
        // The others come in as room is made: nothing was dropped.
        for mut client in clients {
            client.write_all(b"x").unwrap();
        }
        assert_eq!(begins.iter().take(76).count(), 76);
    });
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[test]
fn a_factory_that_panics_on_one_worker_ends_them_all() {
    for broken in [0, 1] {
        let workers = Workers::bind([any()], 2).unwrap();
        let error = ends(workers, move |worker| {
            if worker.index == broken {
                // Not `panic!`: the hook would print it as if the test had failed.
                std::panic::resume_unwind(Box::new("a defect"));
            }
            counting(worker)
        });
        assert!(matches!(error, Err(WorkersError::Panicked)), "{error:?}");
    }
}

/// Fails for good in `poll_ready` when it is the `broken`th clone of the stack.
struct Breaks {
    broken: usize,
    clones: Rc<Cell<usize>>,
    number: usize,
}

impl Clone for Breaks {
    fn clone(&self) -> Self {
        self.clones.set(self.clones.get() + 1);
        Self { broken: self.broken, clones: Rc::clone(&self.clones), number: self.clones.get() }
    }
}

impl Service<Conn<Tcp>> for Breaks {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let broken = self.number == self.broken;
        Poll::Ready(if broken { Err("no licence".into()) } else { Ok(()) })
    }

    fn call(&mut self, _: Conn<Tcp>) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[test]
fn a_service_that_breaks_behind_any_worker_and_address_ends_them_all() {
    for (worker, address) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        let workers = Workers::bind([any(), any()], 2).unwrap();
        let error = ends(workers, move |at| Breaks {
            broken: if at.index == worker { address } else { usize::MAX },
            clones: Rc::default(),
            number: 0,
        });
        let Err(WorkersError::Serve(ServeError::Service(error))) = error else {
            panic!("worker {worker}, address {address}: {error:?}")
        };
        assert_eq!(error.to_string(), "no licence");
    }
}

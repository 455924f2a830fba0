use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{pending, ready};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout;
use tower::service_fn;

use super::*;

/// A listener that hands out what the test sends, and then waits for more.
struct Scripted {
    script: UnboundedReceiver<io::Result<u32>>,
    /// What only the system knows of: handed out by `accept_queued` alone.
    queued: Queue,
    polls: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

type Queue = Arc<Mutex<VecDeque<io::Result<u32>>>>;

/// The test's end of a [`Scripted`].
struct Script {
    send: UnboundedSender<io::Result<u32>>,
    queued: Queue,
    polls: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

fn scripted() -> (Scripted, Script) {
    let (send, script) = unbounded_channel();
    let (queued, polls, taken) = <(Queue, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let to_test = Script { send, queued, polls, taken };
    let Script { queued, polls, taken, .. } = &to_test;
    let listener = Scripted {
        script,
        queued: Arc::clone(queued),
        polls: Arc::clone(polls),
        taken: Arc::clone(taken),
    };
    (listener, to_test)
}

impl Script {
    fn connect(&self, id: u32) {
        self.send.send(Ok(id)).unwrap();
    }

    fn fail(&self, errno: i32) {
        self.send.send(Err(io::Error::from_raw_os_error(errno))).unwrap();
    }

    fn queue(&self, id: u32) {
        self.queued.lock().unwrap().push_back(Ok(id));
    }

    /// How many connections and errors were accepted.
    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }
}

impl Listener for Scripted {
    type Io = u32;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(u32, ConnInfo)>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        let next = ready!(self.script.poll_recv(cx));
        self.taken.fetch_add(1, Ordering::SeqCst);
        match next {
            Some(result) => Poll::Ready(result.map(|id| (id, info()))),
            None => Poll::Pending,
        }
    }

    fn accept_queued(&mut self) -> io::Result<Option<(u32, ConnInfo)>> {
        let next = self.queued.lock().unwrap().pop_front().transpose()?;
        Ok(next.map(|id| (id, info())))
    }
}

fn info() -> ConnInfo {
    ConnInfo::new("192.0.2.1:5000".parse().unwrap(), "192.0.2.2:443".parse().unwrap())
}

/// A connection service whose connections say that they have begun, and are done when told.
#[derive(Clone)]
struct Rooms {
    begun: UnboundedSender<u32>,
    done: watch::Sender<Vec<u32>>,
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Rooms {
    fn new() -> (Self, UnboundedReceiver<u32>) {
        let (begun, begins) = unbounded_channel();
        (Self { begun, done: watch::Sender::new(Vec::new()), open: Arc::default() }, begins)
    }

    fn finish(&self, id: u32) {
        self.done.send_modify(|done| done.push(id));
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Service<Conn<u32>> for Rooms {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<u32>) -> Self::Future {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let (id, mut done) = (*conn.io(), self.done.subscribe());
        self.begun.send(id).unwrap();
        Box::pin(async move {
            let _open = open;
            done.wait_for(|done| done.contains(&id)).await?;
            Ok(())
        })
    }
}

/// Runs `test` beside a loop that must not end before it.
///
/// A connection that got lost fails the test at once: paused time goes on when nothing else does.
async fn while_serving<T>(
    serve: impl IntoFuture<Output = Result<(), ServeError>>,
    test: impl Future<Output = T>,
) -> T {
    tokio::select! {
        biased;
        ended = serve.into_future() => panic!("the accept loop ended: {ended:?}"),
        outcome = timeout(Duration::from_secs(60), test) => outcome.expect("it waits in vain"),
    }
}

/// Runs `serve` to its end beside `test`, and fails when they wait for each other.
async fn both<A, B>(serve: impl Future<Output = A>, test: impl Future<Output = B>) -> (A, B) {
    let joined = async { tokio::join!(serve, test) };
    timeout(Duration::from_secs(60), joined).await.expect("it waits in vain")
}

/// Lets everything run that can. Only for showing that something does *not* happen.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_run_side_by_side() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    while_serving(serve(listener, rooms.clone()), async {
        for id in [1, 2, 3] {
            script.connect(id);
            assert_eq!(begins.recv().await, Some(id), "none has to wait for another to end");
        }
        assert_eq!(rooms.open(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_want_of_descriptors_or_memory_backs_off_and_never_stops() {
    for number in [errno::EMFILE, errno::ENFILE, errno::ENOBUFS, errno::ENOMEM] {
        let (listener, script) = scripted();
        let (rooms, mut begins) = Rooms::new();
        while_serving(serve(listener, rooms), async {
            let start = Instant::now();
            // Pauses of 5, 10, 20, 40, 80 ms, and from then on of 100 ms.
            (0..8).for_each(|_| script.fail(number));
            script.connect(1);
            assert_eq!(begins.recv().await, Some(1), "errno {number}");
            assert_eq!(start.elapsed().as_millis(), 5 + 10 + 20 + 40 + 80 + 3 * 100);
            assert!(script.polls() < 20, "{} polls for 9 results are a spin", script.polls());

            // What was accepted has ended the trouble: the next one begins with 5 ms again.
            let start = Instant::now();
            script.fail(number);
            script.connect(2);
            assert_eq!(begins.recv().await, Some(2));
            assert_eq!(start.elapsed().as_millis(), 5);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_connection_delays_no_other() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    while_serving(serve(listener, rooms), async {
        let start = Instant::now();
        (0..3).for_each(|_| script.fail(errno::ECONNABORTED));
        script.connect(1);
        assert_eq!(begins.recv().await, Some(1));
        assert_eq!(start.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_house_pauses_accepting_and_drops_nothing() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    while_serving(serve(listener, rooms.clone()).max_connections(2), async {
        (1..=4).for_each(|id| script.connect(id));
        assert_eq!((begins.recv().await, begins.recv().await), (Some(1), Some(2)));
        settle().await;
        assert_eq!((rooms.open(), script.taken()), (2, 2), "the third stays in the queue");

        rooms.finish(2);
        assert_eq!(begins.recv().await, Some(3));
        settle().await;
        assert_eq!((rooms.open(), script.taken()), (2, 3));

        rooms.finish(1);
        assert_eq!(begins.recv().await, Some(4));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn accepts_nothing_while_the_service_is_not_ready() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    let limited = tower::limit::ConcurrencyLimit::new(rooms.clone(), 1);
    while_serving(serve(listener, limited), async {
        script.connect(1);
        script.connect(2);
        assert_eq!(begins.recv().await, Some(1));
        settle().await;
        assert_eq!(script.taken(), 1, "a connection that cannot be served is not accepted");

        rooms.finish(1);
        assert_eq!(begins.recv().await, Some(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_instance_that_was_polled_ready_is_the_one_that_is_called() {
    let (listener, script) = scripted();
    // `Mock` panics when it is called through an instance that was not polled ready.
    let (mock, mut handle) = tower_test::mock::pair::<Conn<u32>, ()>();
    while_serving(serve(listener, mock), async {
        for id in [1, 2] {
            script.connect(id);
            let (conn, respond) = handle.next_request().await.unwrap();
            assert_eq!(conn.into_io(), id);
            respond.send_response(());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_knows_the_drain_and_its_addresses() {
    let (listener, script) = scripted();
    let drain = Drain::new();
    let (seen, sees) = oneshot::channel();
    let seen = Arc::new(Mutex::new(Some(seen)));
    let service = service_fn(move |conn: Conn<u32>| {
        let seen = seen.lock().unwrap().take().unwrap();
        seen.send((conn.drain(), conn.info().clone())).unwrap();
        ready(Ok::<_, BoxError>(()))
    });
    while_serving(serve(listener, service).with_drain(drain.clone()), async {
        script.connect(1);
        let (mut watch, info) = sees.await.unwrap();
        assert_eq!((info.peer().port(), info.local().port()), (5000, 443));
        drain.advance(Phase::Announced);
        watch.reached(Phase::Announced).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn goes_on_accepting_when_the_end_is_announced() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    let drain = Drain::new();
    while_serving(serve(listener, rooms).with_drain(drain.clone()), async {
        drain.advance(Phase::Announced);
        settle().await;
        script.connect(1);
        assert_eq!(begins.recv().await, Some(1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn once_stopped_serves_what_is_queued_and_ends_with_the_last_connection() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    let drain = Drain::new();
    let serve = serve(listener, rooms.clone()).with_drain(drain.clone()).into_future();
    let ended = Cell::new(false);
    let test = async {
        script.connect(1);
        assert_eq!(begins.recv().await, Some(1));
        script.queue(2);
        script.queue(3);
        drain.advance(Phase::Stopped);
        assert_eq!((begins.recv().await, begins.recv().await), (Some(2), Some(3)));

        settle().await;
        assert!(script.send.send(Ok(4)).is_err(), "the listener is closed");
        for id in [3, 1, 2] {
            settle().await;
            assert!(!ended.get(), "connection {id} is still open");
            rooms.finish(id);
        }
    };
    let run = async {
        serve.await.unwrap();
        ended.set(true);
    };
    both(run, test).await;
    assert_eq!((begins.try_recv().ok(), rooms.open()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_want_of_descriptors_loses_nothing_that_is_queued_at_the_stop() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    let drain = Drain::new();
    let error = || Err(io::Error::from_raw_os_error(errno::EMFILE));
    script.queued.lock().unwrap().extend([error(), error(), Ok(1)]);
    drain.advance(Phase::Stopped);
    let start = Instant::now();
    let serve = serve(listener, rooms.clone()).with_drain(drain).into_future();
    let test = async {
        assert_eq!(begins.recv().await, Some(1));
        assert_eq!(start.elapsed().as_millis(), 5 + 10);
        rooms.finish(1);
    };
    let (served, ()) = both(serve, test).await;
    served.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_at_a_full_house_waits_for_room_and_drops_nothing() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    let drain = Drain::new();
    let serve =
        serve(listener, rooms.clone()).with_drain(drain.clone()).max_connections(1).into_future();
    let test = async {
        script.connect(1);
        assert_eq!(begins.recv().await, Some(1));
        script.queue(2);
        drain.advance(Phase::Stopped);
        settle().await;
        assert_eq!(rooms.open(), 1);
        rooms.finish(1);
        assert_eq!(begins.recv().await, Some(2));
        rooms.finish(2);
    };
    let (served, ()) = both(serve, test).await;
    served.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_drops_what_is_left() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    let drain = Drain::new();
    let serve = serve(listener, rooms.clone()).with_drain(drain.clone()).into_future();
    let test = async {
        script.connect(1);
        script.connect(2);
        assert_eq!((begins.recv().await, begins.recv().await), (Some(1), Some(2)));
        drain.advance(Phase::Closing);
    };
    let (served, ()) = both(serve, test).await;
    served.unwrap();
    assert_eq!(rooms.open(), 0, "connections are dropped, not left behind");
}

#[tokio::test(start_paused = true)]
async fn clients_that_go_on_to_fill_the_queue_cannot_keep_it_from_closing() {
    /// A queue that ends only so that the test does.
    struct Flood(u32);
    impl Listener for Flood {
        type Io = u32;

        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(u32, ConnInfo)>> {
            Poll::Pending
        }

        fn accept_queued(&mut self) -> io::Result<Option<(u32, ConnInfo)>> {
            self.0 += 1;
            assert!(self.0 < 1_000_000, "the loop gives no turn away");
            Ok(Some((self.0, info())))
        }
    }
    let drain = Drain::new();
    let service = service_fn(|_: Conn<u32>| ready(Ok::<_, BoxError>(())));
    let serve = serve(Flood(0), service).with_drain(drain.clone()).into_future();
    let close = async {
        drain.advance(Phase::Stopped);
        // On the same thread: it gets its turn only if the loop gives one away.
        settle().await;
        drain.advance(Phase::Closing);
    };
    both(serve, close).await.0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_or_panics_does_not_end_the_loop() {
    let (listener, script) = scripted();
    let (begun, mut begins) = unbounded_channel();
    let service = service_fn(move |conn: Conn<u32>| {
        let (id, begun) = (conn.into_io(), begun.clone());
        async move {
            begun.send(id).unwrap();
            match id {
                1 => Err(BoxError::from("refused")),
                // Not `panic!`: the hook would print it as if the test had failed.
                2 => std::panic::resume_unwind(Box::new("a defect")),
                _ => Ok(()),
            }
        }
    });
    // With room for one: a failed connection gives its place back.
    while_serving(serve(listener, service).max_connections(1), async {
        for id in 1..=3 {
            script.connect(id);
            assert_eq!(begins.recv().await, Some(id));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_panics_is_done_when_it_comes_to_the_end() {
    let (listener, script) = scripted();
    let drain = Drain::new();
    let (begun, mut begins) = unbounded_channel();
    let service = service_fn(move |_: Conn<u32>| {
        let begun = begun.clone();
        async move {
            begun.send(()).unwrap();
            std::panic::resume_unwind(Box::new("a defect"));
            #[allow(unreachable_code, reason = "names the type of the error")]
            Ok::<(), BoxError>(())
        }
    });
    let serve = serve(listener, service).with_drain(drain.clone()).into_future();
    let test = async {
        script.connect(1);
        begins.recv().await.unwrap();
        drain.advance(Phase::Stopped);
    };
    let (served, ()) = both(serve, test).await;
    served.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_broken_for_good_ends_the_loop() {
    let (listener, _script) = scripted();
    let (mock, mut handle) = tower_test::mock::pair::<Conn<u32>, ()>();
    handle.send_error("no licence");

    let ServeError::Service(error) = serve(listener, mock).await.unwrap_err();

    assert_eq!(error.to_string(), "no licence");
}

#[tokio::test(start_paused = true)]
async fn a_local_loop_runs_services_that_are_not_send() {
    let (listener, script) = scripted();
    let drain = Drain::new();
    let sum = Rc::new(Cell::new(0));
    let service = {
        let sum = Rc::clone(&sum);
        service_fn(move |conn: Conn<u32>| {
            let sum = Rc::clone(&sum);
            async move {
                yield_now().await;
                sum.set(sum.get() + conn.into_io());
                Ok::<_, BoxError>(())
            }
        })
    };
    let serve = serve(listener, service).with_drain(drain.clone()).local();
    script.queue(1);
    script.queue(2);
    drain.advance(Phase::Stopped);
    LocalSet::new().run_until(serve.into_future()).await.unwrap();
    assert_eq!(sum.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_loop_lets_connections_go_on() {
    let (listener, script) = scripted();
    let (rooms, mut begins) = Rooms::new();
    while_serving(serve(listener, rooms.clone()), async {
        script.connect(1);
        assert_eq!(begins.recv().await, Some(1));
    })
    .await;
    settle().await;
    assert_eq!(rooms.open(), 1);
    assert!(script.send.send(Ok(2)).is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_connection_that_the_system_has_queued_at_the_stop_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // Connected as far as the system is concerned, though the runtime has not heard of it: a
    // blocking connect on this thread gives it no chance to.
    let client = std::net::TcpStream::connect(addr).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut client = TcpStream::from_std(client).unwrap();
    let drain = Drain::new();
    drain.advance(Phase::Stopped);
    let service = service_fn(|conn: Conn<TcpStream>| async move {
        assert!(conn.io().nodelay()?);
        let peer = conn.info().peer();
        conn.into_io().write_all(peer.to_string().as_bytes()).await
    });

    let mut said = String::new();
    let serve = serve(listener, service).with_drain(drain).into_future();
    let (served, read) = tokio::join!(serve, client.read_to_string(&mut said));

    served.unwrap();
    read.unwrap();
    assert_eq!(said, client.local_addr().unwrap().to_string());
    assert!(TcpStream::connect(addr).await.is_err(), "the listener is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_on_many_threads_are_all_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let drain = Drain::new();
    let echo = service_fn(|conn: Conn<TcpStream>| async move {
        let (mut read, mut write) = conn.into_io().into_split();
        tokio::io::copy(&mut read, &mut write).await.map(drop)
    });
    let server = tokio::spawn(serve(listener, echo).with_drain(drain.clone()).into_future());
    let clients: Vec<_> = (0..50_u8)
        .map(|n| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.write_all(&[n]).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), n);
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    drain.advance(Phase::Stopped);
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_drain_it_never_ends() {
    let (listener, _script) = scripted();
    let never = service_fn(|_: Conn<u32>| pending::<Result<(), BoxError>>());
    assert!(timeout(Duration::from_secs(86_400), serve(listener, never)).await.is_err());
}

/// The numbers that Linux gives them; elsewhere some mean another error, which backs off as well.
mod errno {
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ECONNABORTED: i32 = if cfg!(target_os = "linux") { 103 } else { 53 };
    pub(super) const ENOBUFS: i32 = if cfg!(target_os = "linux") { 105 } else { 55 };
}

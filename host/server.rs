//! The listener for clients: workers, connections and their limits, TLS, drain. What is asked and answered is the gateway's.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::activity::{Activity, Answering, Busy};
use crate::client_stream::{ClientStream, Connection};
use crate::config::{Config, Runtime, Server};
use crate::connection::{Connections, Keep};
use crate::descriptors;
use crate::gateway::Gateway;
use crate::live::Live;
use crate::local_limit;
use crate::place::Places;
use crate::progress::{Progress, WatchedStreams, watched};
use crate::share::{Addresses, ClientShare};
use crate::tls::Certificate;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a client may take for the TLS handshake.
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a worker closes vendor connections that were idle for too long. There is a second use: a timer that is due before all
/// others wakes the runtime with a system call, and with this one due soon, those of requests never are.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// The address is taken before anything else starts, so that a second gateway is told at once.
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
    reuse: bool,
}

impl Listener {
    /// Takes the address.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let reuse = config.server.runtime == Runtime::PerCore && config.server.workers > 1;
        // Workers share the address among themselves, but not with another gateway: the first one takes it alone.
        drop(open(config.listen, false)?);
        let socket = open(config.listen, reuse)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(config.listen);
        Ok(Self { socket, address, reuse })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One listener for each of `count` workers.
    fn split(self, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
        let mut sockets = vec![self.socket];
        for _ in 1..count {
            sockets.push(open(self.address, self.reuse)?);
        }
        Ok(sockets.into_iter().map(Into::into).collect())
    }
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Serves until `stop` says so, then drains. Blocks.
pub fn run(listener: Listener, live: &Arc<Live>, stop: watch::Receiver<bool>) -> io::Result<()> {
    let shared = Shared::of(live)?;
    match shared.server.runtime {
        Runtime::Shared => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(shared.server.workers)
                .thread_name("worker")
                .enable_all()
                .build()?;
            let listener = listener.split(1)?.remove(0);
            let served = runtime.block_on(Worker::new(shared).serve(listener, stop));
            runtime.shutdown_background();
            served
        }
        Runtime::PerCore => per_core(listener.split(shared.server.workers)?, &shared, &stop),
    }
}

fn per_core(
    listeners: Vec<std::net::TcpListener>,
    shared: &Arc<Shared>,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let spawn = |(number, listener): (usize, std::net::TcpListener)| {
        let (shared, stop) = (shared.clone(), stop.clone());
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let served = runtime.block_on(Worker::new(shared).serve(listener, stop));
                // What still blocks, such as a file of a credential on a network that is away, holds the end of the process up.
                runtime.shutdown_background();
                served
            })
    };
    let threads: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(spawn)
        .collect::<io::Result<_>>()?;
    threads.into_iter().try_for_each(|thread| {
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    })
}

/// What all workers share.
struct Shared {
    live: Arc<Live>,
    server: Server,
    tls: Option<TlsAcceptor>,
    connections: Arc<Semaphore>,
    places: Places,
    addresses: Addresses,
}

impl Shared {
    fn of(live: &Arc<Live>) -> io::Result<Arc<Self>> {
        let server = live.snapshot().config.server.clone();
        Ok(Arc::new(Self {
            live: live.clone(),
            tls: live.certificate().map(Certificate::acceptor).transpose()?,
            connections: Arc::new(Semaphore::new(descriptors::client_connections(server.max_connections))),
            places: Places::new(server.max_requests, server.share_of(server.max_requests, 1)),
            addresses: Addresses::default(),
            server,
        }))
    }
}

/// One worker: its own connections to vendors, and the connections that it accepted.
pub struct Worker {
    shared: Arc<Shared>,
    gateway: Arc<Gateway>,
    connections: Arc<Connections>,
    builder: Arc<auto::Builder<WatchedStreams>>,
}

impl Worker {
    /// A worker without a listener, for connections that come from elsewhere.
    pub fn alone(live: &Arc<Live>) -> io::Result<Arc<Self>> {
        Ok(Self::new(Shared::of(live)?))
    }

    /// Serves a connection to its end.
    pub async fn serve_connection(self: Arc<Self>, stream: impl Connection + 'static) {
        // It is never told to end early, for which it must be there.
        let open = GracefulShutdown::new();
        self.speak(stream, Arc::default(), open.watcher()).await;
        drop(open);
    }

    fn new(shared: Arc<Shared>) -> Arc<Self> {
        let attempts = &shared.live.snapshot().config.attempts;
        let keep = Keep {
            per_endpoint: attempts.max_idle_connections,
            idle: attempts.idle_connection,
            age: attempts.connection_age,
        };
        let connections = Arc::new(Connections::new(keep, shared.live.dialer.clone()));
        let gateway = Arc::new(Gateway::new(shared.live.clone(), connections.clone()));
        let builder = Arc::new(builder(&shared.server));
        Arc::new(Self {
            shared,
            gateway,
            connections,
            builder,
        })
    }

    async fn serve(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let open = GracefulShutdown::new();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                _ = housekeeping.tick() => {
                    self.connections.sweep();
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let (worker, watcher, stop) = (self.clone(), open.watcher(), stop.clone());
                    let client = self.shared.addresses.share(peer.ip());
                    tokio::spawn(async move {
                        worker.connection(stream, client, watcher, stop).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Those that are open will free descriptors.
                    if local_limit::is_local(&error) {
                        local_limit::report(&error.to_string(), "a client's connection could not be accepted");
                    } else {
                        tracing::warn!(%error, "a connection could not be accepted");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        if tokio::time::timeout(self.shared.server.drain, open.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("requests that are still open after the drain limit are cut off");
        }
        Ok(())
    }

    /// The next connection, when there is room for one.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = self
            .shared
            .connections
            .clone()
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, permit))
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        client: Arc<ClientShare>,
        watcher: Watcher,
        mut stop: watch::Receiver<bool>,
    ) {
        if let Err(error) = self.tune(&stream) {
            tracing::debug!(%error, "a client's connection cannot be set up");
            return;
        }
        match &self.shared.tls {
            None => self.clone().speak(stream, client, watcher).await,
            Some(acceptor) => {
                let handshake = tokio::time::timeout(TLS_HANDSHAKE, acceptor.accept(stream));
                let accepted = tokio::select! {
                    accepted = handshake => accepted,
                    // It has not asked for anything yet.
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                if let Ok(Ok(stream)) = accepted {
                    self.clone().speak(stream, client, watcher).await;
                }
            }
        }
    }

    async fn speak(self: Arc<Self>, stream: impl Connection + 'static, client: Arc<ClientShare>, watcher: Watcher) {
        let activity = Arc::<Activity>::default();
        let (worker, active) = (self.clone(), activity.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let place = worker.shared.places.enter(client.clone(), Busy::new(active.clone()));
            let (gateway, active) = (worker.gateway.clone(), active.clone());
            async move {
                let version = request.version();
                active.set_answering(Answering::before(version));
                let response = gateway.answer(request, place).await;
                active.set_answering(Answering::with(version, response.body().size_hint().exact()));
                Ok::<_, Infallible>(response)
            }
        });
        let progress = Arc::<Progress>::default();
        let stream = ClientStream::new(stream, progress.clone(), activity.clone());
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = watcher.watch(connection.into_owned());
        tokio::select! {
            ended = watched(connection, &progress, self.shared.server.stall_timeout) => match ended {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "a client's connection ended"),
                None => tracing::debug!("a client's connection on which an answer was left unread was closed"),
            },
            () = activity.idle(&self.shared.server) => {}
        }
    }

    /// Settings of a client's connection: frames go out at once, and one that takes nothing any more is closed.
    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let stall = self.shared.server.stall_timeout;
        socket.set_tcp_user_timeout(Some(stall))?;
        // Told in whole seconds, and none are an error.
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(stall.max(Duration::from_secs(1))))
    }
}

fn builder(server: &Server) -> auto::Builder<WatchedStreams> {
    let mut builder = auto::Builder::new(WatchedStreams {
        stall: server.stall_timeout,
    });
    builder
        .http1()
        // Ours is by connection: a timer for each request costs more than all else that the server does for it.
        .header_read_timeout(None)
        .max_buf_size(server.max_head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(server.http2_max_streams)
        .max_header_list_size(u32::try_from(server.max_head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

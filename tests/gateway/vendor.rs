//! A vendor that does with each request what a script says, over raw sockets, and remembers what it was sent.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::message::{Head, Incoming};
use super::running::eventually;
use super::script::{Script, Step};

/// A scripted vendor. Its name is also that of its target.
pub struct Vendor {
    pub name: &'static str,
    pub address: SocketAddr,
    state: Arc<State>,
    /// What keeps a port as it is for a vendor that never answers.
    _held: Vec<Socket>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub head: Head,
    pub body: Vec<u8>,
    /// The gateway closed the connection while the vendor had not finished.
    pub cancelled: bool,
}

#[derive(Default)]
struct State {
    /// One for each request; the last one for all that follow.
    scripts: Mutex<VecDeque<Script>>,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    sent: AtomicUsize,
}

impl Vendor {
    /// Answers the first request by the first script and so on; the last script is for all that follow.
    pub fn start(name: &'static str, scripts: impl IntoIterator<Item = Script>) -> Self {
        Self::start_at(name, (Ipv4Addr::LOCALHOST, 0).into(), scripts)
    }

    /// The same at an address of this machine.
    pub fn start_at(name: &'static str, address: SocketAddr, scripts: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            scripts: Mutex::new(scripts.into_iter().collect()),
            ..State::default()
        });
        let vendor = Self {
            name,
            address,
            state: state.clone(),
            _held: Vec::new(),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                thread::spawn(move || _ = state.serve(stream.unwrap()));
            }
        });
        vendor
    }

    /// Answers everything as it should, and says `from NAME`.
    pub fn well(name: &'static str) -> Self {
        Self::start(name, [Script::Well(format!("from {name}"))])
    }

    /// Refuses connections.
    pub fn gone(name: &'static str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            name,
            address,
            state: Arc::default(),
            _held: vec![socket],
        }
    }

    /// Neither accepts connections nor refuses them: as many as may wait to be accepted do so already.
    pub fn full(name: &'static str) -> Self {
        let vendor = Self::gone(name);
        let client = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let mut held = vendor._held;
        held[0].listen(1).unwrap();
        for _ in 0..4 {
            held.push(client());
            // Those that find no room any more do not matter.
            let _ = held[held.len() - 1].connect_timeout(&vendor.address.into(), Duration::from_millis(50));
        }
        Self { _held: held, ..vendor }
    }

    /// From now on: this.
    pub fn follow(&self, script: Script) {
        *self.state.scripts.lock().unwrap() = VecDeque::from([script]);
    }

    /// All requests so far, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.state.received.lock().unwrap().len()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Bytes that were sent in whole steps.
    pub fn sent(&self) -> usize {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// The only request so far.
    pub fn only(&self) -> Received {
        let mut received = self.received();
        assert_eq!(received.len(), 1, "requests to {}", self.name);
        received.remove(0)
    }

    /// Waits until so many requests have come.
    pub fn wait_for(&self, count: usize) {
        eventually(&format!("{count} requests to {}", self.name), || {
            (self.count() >= count).then_some(())
        });
    }

    /// Waits until the gateway has closed the connection of the last request.
    pub fn wait_for_cancellation(&self) {
        let cancelled = || self.received().last().filter(|request| request.cancelled).map(|_| ());
        eventually(&format!("the request to {} to be cancelled", self.name), cancelled);
    }
}

impl Received {
    pub fn body(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl State {
    /// Answers the requests of one connection.
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true)?;
        let mut incoming = Incoming::new(stream);
        while let Some(head) = incoming.head()? {
            let body = incoming.body(&head)?;
            let streaming = serde_json::from_slice(&body)
                .is_ok_and(|body: serde_json::Value| body["stream"] == serde_json::Value::Bool(true));
            let (index, script) = self.receive(Received {
                head,
                body,
                cancelled: false,
            });
            for step in script.steps(streaming) {
                match self.carry_out(step, &mut incoming) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(_) => {
                        self.note_cancelled(index);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn receive(&self, request: Received) -> (usize, Script) {
        let mut scripts = self.scripts.lock().unwrap();
        let script = if scripts.len() > 1 {
            scripts.pop_front()
        } else {
            scripts.front().cloned()
        };
        drop(scripts);
        let script = script.expect("a vendor with a script").for_request(&request);
        let mut received = self.received.lock().unwrap();
        received.push(request);
        (received.len() - 1, script)
    }

    /// Whether the connection goes on. An error means that the gateway has closed it.
    fn carry_out(&self, step: Step, incoming: &mut Incoming<TcpStream>) -> io::Result<bool> {
        match step {
            Step::Send(bytes) => {
                incoming.stream.write_all(&bytes)?;
                self.sent.fetch_add(bytes.len(), Ordering::Relaxed);
            }
            Step::SendByteByByte(bytes) => bytes.chunks(1).try_for_each(|byte| incoming.stream.write_all(byte))?,
            Step::Until(gate) => gate.wait(),
            Step::Pause(pause) => thread::sleep(pause),
            Step::Hold if incoming.closed() => return Err(io::ErrorKind::ConnectionAborted.into()),
            Step::Hold => {}
            Step::Close => return Ok(false),
            Step::Reset => {
                SockRef::from(&incoming.stream).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn note_cancelled(&self, index: usize) {
        self.received.lock().unwrap()[index].cancelled = true;
    }
}

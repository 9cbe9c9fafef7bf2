//! The network between one node and the server: a TCP proxy in the test's process that can be cut, held, or told to
//! mistreat the next message that contains certain bytes, such as a `COMMIT`.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// Whether bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections are dropped and refused.
    Cut,
    /// Connections stand, and nothing flows on them.
    Held,
}

/// What happens to the next message from the node that contains some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trap {
    /// The server gets it and answers, and the answer is lost with the connection.
    LoseReply,
    /// The node's side is closed at once; the server gets the message that much later.
    LandLate(Duration),
    /// Everything is held from this message on, and it comes first when the way is healed: the transaction stays open.
    Withhold,
}

struct State {
    way: Way,
    links: Vec<(TcpStream, TcpStream)>,
    trap: Option<(Trap, Vec<u8>)>,
    ended: bool,
}

struct Shared {
    server: u16,
    state: Mutex<State>,
    changed: Condvar,
    sprung: AtomicU32,
}

/// A proxy in front of a port of this machine. Its own port stays the same whatever happens to node and server.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(crate) fn to(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { way: Way::Open, links: Vec::new(), trap: None, ended: false };
        let shared = Arc::new(Shared { server, state: Mutex::new(state), changed: Condvar::new(), sprung: AtomicU32::new(0) });
        let for_thread = shared.clone();
        thread::spawn(move || accept(&listener, &for_thread));
        Proxy { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Drops every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.turn(Way::Cut);
    }

    /// Lets no byte through, either way; connections stay.
    pub(crate) fn hold(&self) {
        self.turn(Way::Held);
    }

    /// Lets everything through again.
    pub(crate) fn heal(&self) {
        self.turn(Way::Open);
    }

    fn turn(&self, way: Way) {
        let mut state = self.shared.state.lock().unwrap();
        state.way = way;
        if way == Way::Cut {
            close(&mut state.links);
        }
        self.shared.changed.notify_all();
    }

    /// Sets a trap for the next message of the node that contains these bytes.
    pub(crate) fn trap(&self, trap: Trap, bytes: &str) {
        self.shared.state.lock().unwrap().trap = Some((trap, bytes.as_bytes().to_ascii_lowercase()));
    }

    /// Tells how many traps were sprung.
    pub(crate) fn sprung(&self) -> u32 {
        self.shared.sprung.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.ended = true;
        state.way = Way::Cut;
        close(&mut state.links);
        self.shared.changed.notify_all();
        drop(state);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn close(links: &mut Vec<(TcpStream, TcpStream)>) {
    for (node, server) in links.drain(..) {
        part(&node, &server);
    }
}

fn part(node: &TcpStream, server: &TcpStream) {
    // Either may be closed already.
    let _ = node.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for node in listener.incoming().filter_map(Result::ok) {
        if shared.state.lock().unwrap().ended {
            return;
        }
        if shared.state.lock().unwrap().way == Way::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server)) else { continue };
        let _ = (node.set_nodelay(true), server.set_nodelay(true));
        let twice = |stream: &TcpStream| (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let ((node_a, node_b), (server_a, server_b)) = (twice(&node), twice(&server));
        shared.state.lock().unwrap().links.push((node, server));
        let deaf = Arc::new(AtomicBool::new(false));
        let (shared_a, deaf_a) = (shared.clone(), deaf.clone());
        thread::spawn(move || {
            there(&node_a, &server_a, &shared_a, &deaf_a);
            part(&node_a, &server_a);
        });
        let shared_b = shared.clone();
        thread::spawn(move || {
            back(&node_b, &server_b, &shared_b, &deaf);
            part(&node_b, &server_b);
        });
    }
}

impl Shared {
    /// Waits while the way is held; tells whether it is open then.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |state| state.way == Way::Held).unwrap();
        state.way == Way::Open
    }

    /// Takes the trap if the message walks into it.
    fn spring(&self, message: &[u8]) -> Option<Trap> {
        let mut state = self.state.lock().unwrap();
        let (_, wanted) = state.trap.as_ref()?;
        let caught = message.to_ascii_lowercase().windows(wanted.len()).any(|window| window == &wanted[..]);
        if !caught {
            return None;
        }
        self.sprung.fetch_add(1, Ordering::SeqCst);
        state.trap.take().map(|(trap, _)| trap)
    }
}

/// Carries what the node says.
fn there(mut node: &TcpStream, mut server: &TcpStream, shared: &Shared, deaf: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = node.read(&mut buffer) {
        if !shared.pass() {
            return;
        }
        let message = &buffer[..count];
        let late = match shared.spring(message) {
            Some(Trap::LoseReply) => {
                deaf.store(true, Ordering::SeqCst);
                false
            }
            Some(Trap::LandLate(after)) => {
                let _ = node.shutdown(Shutdown::Both);
                thread::sleep(after);
                true
            }
            Some(Trap::Withhold) => {
                shared.state.lock().unwrap().way = Way::Held;
                if !shared.pass() {
                    return;
                }
                false
            }
            None => false,
        };
        if server.write_all(message).is_err() {
            return;
        }
        if late {
            // The answer says that the server is done; `back` reads it, and parts them.
            let _ = server.set_read_timeout(Some(Duration::from_secs(5)));
            thread::sleep(Duration::from_secs(1));
            return;
        }
    }
}

/// Carries what the server says.
fn back(mut node: &TcpStream, mut server: &TcpStream, shared: &Shared, deaf: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if !shared.pass() || deaf.load(Ordering::SeqCst) || node.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

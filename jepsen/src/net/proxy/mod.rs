//! A network without root: nodes listen on loopback, and say that they are reached where a proxy of the harness listens.
//!
//! ```text
//! node 1 ----\                             /---- node 2
//! node 3 ----- proxy of node 2: who calls? ----- (what is read of either side passes when the link lets it)
//! clients ---/
//! ```
//!
//! All come to the same address of a node, and the first frame of a native connection says who calls: so each direction of each link has
//! rules of its own. Flight is for clients only, and health and metrics are asked for directly.
//!
//! A connection is not a wire. On a **cut** link what was sent is held up; half of the senders find their connection closed
//! after three seconds, as between nodes the kernel would do it, the others' pieces arrive when the link is whole again, late. Nobody
//! hears over a cut link that the other side is gone. A new connection over one does not come about. On a **lossy** link
//! a fifth of the pieces is 200 ms late, and so are those behind it; on a **slow** one each is 50 to 250 ms late. What is not there: packets
//! out of order or doubled, which TCP would hide from the product anyway, and answers of the kernel that get lost.

mod hello;
mod pipe;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use levada_tests::nodes::Nodes;
use rand::{SeedableRng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use self::{pipe::Pipe, rules::Rules};
use super::{CLIENTS, Counter, Host, Link};

/// Connections of one proxy. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// How long to wait when the system has no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The proxies in front of all nodes. They and their connections end when this is dropped.
#[derive(Debug)]
pub struct Proxies {
    rules: Arc<Rules>,
    seed: u64,
    listeners: JoinSet<()>,
}

/// What a proxy stands before.
#[derive(Clone, Copy, Debug)]
struct Door {
    node: Host,
    target: SocketAddr,
    /// Whether other nodes come here, too.
    native: bool,
}

impl Proxies {
    /// None yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rules: Arc::default(), seed, listeners: JoinSet::new() }
    }

    /// Puts a proxy in front of every door of every node through which others come. Called where there is a runtime.
    ///
    /// # Errors
    /// The system has no port left.
    pub fn stand_before(&mut self, nodes: &mut Nodes) -> Result<()> {
        for node in nodes.ids() {
            let place = nodes.nodes.get(&node).context("a node has a place")?;
            let (native, flight) = (place.native.parse()?, place.flight.parse()?);
            let native = self.open(Door { node, target: native, native: true })?;
            let flight = self.open(Door { node, target: flight, native: false })?;
            nodes.advertise(node, &native.to_string(), &flight.to_string())?;
        }
        Ok(())
    }

    /// Where to come for this door from now on.
    fn open(&mut self, door: Door) -> Result<SocketAddr> {
        let listener = StdListener::bind("127.0.0.1:0").context("no port for a proxy")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let seed = self.seed ^ (2 * door.node + u64::from(door.native)) << 32;
        self.listeners.spawn(listen(listener, door, Arc::clone(&self.rules), seed));
        Ok(address)
    }

    /// From now on nothing comes through on these links, and everything on all others.
    pub fn cut(&self, links: &BTreeSet<Link>) {
        self.rules.change(|faults| faults.cut.clone_from(links));
    }

    /// From now on a fifth of the pieces on these links is lost and sent again, and none on others.
    pub fn lose(&self, links: &BTreeSet<Link>) {
        self.rules.change(|faults| faults.lossy.clone_from(links));
    }

    /// From now on pieces on these links are late, and on no others.
    pub fn delay(&self, links: &BTreeSet<Link>) {
        self.rules.change(|faults| faults.slow.clone_from(links));
    }

    /// How many pieces, or attempts to connect, met a fault so far.
    #[must_use]
    pub fn counted(&self, counter: Counter) -> u64 {
        self.rules.counted(counter)
    }
}

async fn listen(listener: TcpListener, door: Door, rules: Arc<Rules>, seed: u64) {
    let mut connections = JoinSet::new();
    for number in 0_u64.. {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (rules, dice) = (Arc::clone(&rules), StdRng::seed_from_u64(seed ^ number));
                connections.spawn(async move {
                    // Whoever is at one of its ends hears of it.
                    let _ = serve(stream, door, &rules, dice).await;
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves a connection to its end.
async fn serve(caller: TcpStream, door: Door, rules: &Rules, mut dice: StdRng) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let (from, said) = if door.native { hello::caller(&caller).await? } else { (CLIENTS, BytesMut::new()) };
    let (there, back) = ((from, door.node), (door.node, from));
    if rules.is_cut(there) {
        rules.count(Counter::Cut);
        tokio::select! {
            () = rules.healed(there) => {}
            () = gone(&caller) => return Ok(()),
        }
    }
    let called = match TcpStream::connect(door.target).await {
        Ok(called) => called,
        Err(error) => {
            rules.healed(back).await;
            reset(&caller);
            return Err(error);
        }
    };
    called.set_nodelay(true)?;
    let other = StdRng::from_rng(&mut dice);
    let up = Pipe { link: there, rules, dice, from: &caller, to: &called };
    let down = Pipe { link: back, rules, dice: other, from: &called, to: &caller };
    let carried = tokio::try_join!(up.carry(said.freeze()), down.carry(Bytes::new())).map(drop);
    if carried.is_err() {
        reset(&caller);
        reset(&called);
    }
    carried
}

/// Waits until a caller that waits for an answer has left. One that says more is there.
async fn gone(caller: &TcpStream) {
    let mut byte = [0];
    match caller.peek(&mut byte).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// The other side is to see a connection that broke, not one that ended.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

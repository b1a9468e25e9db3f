//! Two ends and a proxy between them, without any node.

use levada_protocol::{
    frame::{Api, Preface, encode_request},
    messages::native::{HandshakeRequest, PeerIdentity},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use super::*;
use crate::net::between;

const NODE: Host = 2;
const PEER: Host = 1;
/// What has not come until then does not come.
const SHORT: Duration = Duration::from_millis(300);
/// What has not come until then is lost.
const LONG: Duration = Duration::from_secs(20);

struct World {
    proxies: Proxies,
    node: TcpListener,
    address: SocketAddr,
}

impl World {
    async fn new() -> Self {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxies = Proxies::new(7);
        let target = node.local_addr().unwrap();
        let address = proxies.open(Door { node: NODE, target, native: true }).unwrap();
        Self { proxies, node, address }
    }

    /// Somebody who says who it is.
    async fn dials(&self, peer: Option<Host>) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&hello(peer)).await.unwrap();
        stream
    }

    /// The node's end of what somebody dialled, after the hello.
    async fn accepts(&self, peer: Option<Host>) -> TcpStream {
        let (mut stream, _) = timeout(LONG, self.node.accept()).await.unwrap().unwrap();
        assert_eq!(hear(&mut stream, hello(peer).len()).await, hello(peer));
        stream
    }

    async fn connected(&self, peer: Option<Host>) -> (TcpStream, TcpStream) {
        (self.dials(peer).await, self.accepts(peer).await)
    }
}

fn hello(peer: Option<Host>) -> Vec<u8> {
    let peer = peer.map(|node_id| PeerIdentity { node_id, ..PeerIdentity::default() });
    let request = HandshakeRequest { peer, ..HandshakeRequest::default() };
    [&Preface::OURS.encode(), &*encode_request(Api::Handshake, 0, &request, 0)].concat()
}

async fn hear(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(LONG, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

/// Whether one side's word comes to the other soon.
async fn is_heard(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").await.unwrap();
    timeout(SHORT, to.read_exact(&mut [0])).await.is_ok()
}

/// Whether the connection is over.
async fn is_over(stream: &mut TcpStream) -> bool {
    matches!(timeout(LONG, stream.read(&mut [0])).await.unwrap(), Ok(0) | Err(_))
}

#[tokio::test]
async fn everything_passes_both_ways_up_to_the_end() {
    let world = World::new().await;
    let (mut caller, mut node) = world.connected(None).await;
    let much: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (sent, told) = (much.clone(), much.clone());
    let (length, answered) = (much.len(), much.len());
    let there = tokio::spawn(async move {
        let heard = hear(&mut node, length).await;
        node.write_all(&told).await.unwrap();
        heard
    });
    caller.write_all(&sent).await.unwrap();
    assert_eq!(hear(&mut caller, answered).await, much);
    assert_eq!(there.await.unwrap(), much);
    assert!(is_over(&mut caller).await, "the node has left");
}

#[tokio::test]
async fn what_a_cut_link_holds_up_comes_when_it_is_whole_again() {
    let world = World::new().await;
    let (mut caller, mut node) = world.connected(Some(PEER)).await;
    world.proxies.cut(&between(&BTreeSet::from([PEER]), &BTreeSet::from([NODE])));
    assert!(!is_heard(&mut caller, &mut node).await);
    assert!(!is_heard(&mut node, &mut caller).await);
    assert_eq!(world.proxies.counted(Counter::Cut), 2);
    world.proxies.cut(&BTreeSet::new());
    assert_eq!((hear(&mut node, 1).await, hear(&mut caller, 1).await), (b"x".to_vec(), b"x".to_vec()));
    assert!(is_heard(&mut caller, &mut node).await);
}

#[tokio::test]
async fn a_link_can_be_cut_in_one_direction_only() {
    let world = World::new().await;
    let (mut caller, mut node) = world.connected(Some(PEER)).await;
    world.proxies.cut(&BTreeSet::from([(PEER, NODE)]));
    assert!(is_heard(&mut node, &mut caller).await);
    assert!(!is_heard(&mut caller, &mut node).await);
    world.proxies.cut(&BTreeSet::from([(NODE, PEER)]));
    assert_eq!(hear(&mut node, 1).await, b"x");
    assert!(is_heard(&mut caller, &mut node).await);
    assert!(!is_heard(&mut node, &mut caller).await);
}

#[tokio::test]
async fn callers_of_one_address_are_told_apart() {
    let world = World::new().await;
    let (mut peer, mut peers) = world.connected(Some(PEER)).await;
    let (mut other, mut others) = world.connected(Some(3)).await;
    let (mut client, mut clients) = world.connected(None).await;
    world.proxies.cut(&between(&BTreeSet::from([PEER]), &BTreeSet::from([NODE])));
    assert!(!is_heard(&mut peer, &mut peers).await);
    assert!(is_heard(&mut other, &mut others).await);
    assert!(is_heard(&mut client, &mut clients).await);
    world.proxies.cut(&between(&BTreeSet::from([CLIENTS]), &BTreeSet::from([NODE])));
    assert!(!is_heard(&mut client, &mut clients).await);
    assert!(is_heard(&mut other, &mut others).await);
}

#[tokio::test]
async fn nobody_connects_over_a_cut_link_until_it_is_whole_again() {
    let world = World::new().await;
    world.proxies.cut(&BTreeSet::from([(PEER, NODE)]));
    let impatient = world.dials(Some(PEER)).await;
    let patient = world.dials(Some(PEER)).await;
    assert!(timeout(SHORT, world.node.accept()).await.is_err());
    assert_eq!(world.proxies.counted(Counter::Cut), 2);
    drop(impatient);
    tokio::time::sleep(SHORT).await;
    world.proxies.cut(&BTreeSet::new());
    let _node = world.accepts(Some(PEER)).await;
    assert!(timeout(SHORT, world.node.accept()).await.is_err(), "who had left is not connected");
    drop(patient);
}

#[tokio::test]
async fn of_those_who_are_not_heard_half_give_up_and_the_other_side_hears_of_it_later() {
    let world = World::new().await;
    let mut pairs = Vec::new();
    for _ in 0..16 {
        pairs.push(world.connected(Some(PEER)).await);
    }
    world.proxies.cut(&BTreeSet::from([(PEER, NODE)]));
    for (caller, _) in &mut pairs {
        caller.write_all(b"x").await.unwrap();
    }
    tokio::time::sleep(pipe::GIVEN_UP_AFTER + SHORT).await;
    let mut given_up = Vec::new();
    for (caller, node) in &mut pairs {
        given_up.push(timeout(SHORT, caller.read(&mut [0])).await.is_ok());
        assert!(timeout(SHORT / 10, node.read(&mut [0])).await.is_err(), "nothing comes over a cut link");
    }
    let count = given_up.iter().filter(|gave| **gave).count();
    assert!((1..16).contains(&count), "{count} gave up");
    world.proxies.cut(&BTreeSet::new());
    for ((_, node), gave_up) in pairs.iter_mut().zip(given_up) {
        if gave_up {
            assert!(is_over(node).await);
        } else {
            assert_eq!(hear(node, 1).await, b"x");
        }
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_resets_its_callers_unless_they_cannot_hear_it() {
    let World { mut proxies, node, .. } = World::new().await;
    let target = node.local_addr().unwrap();
    drop(node);
    let address = proxies.open(Door { node: NODE, target, native: false }).unwrap();
    assert!(is_over(&mut TcpStream::connect(address).await.unwrap()).await);
    proxies.cut(&BTreeSet::from([(NODE, CLIENTS)]));
    let mut caller = TcpStream::connect(address).await.unwrap();
    assert!(timeout(SHORT, caller.read(&mut [0])).await.is_err());
    proxies.cut(&BTreeSet::new());
    assert!(is_over(&mut caller).await);
}

#[tokio::test]
async fn what_is_lost_or_late_comes_in_its_order() {
    let world = World::new().await;
    let (mut caller, mut node) = world.connected(None).await;
    let all = between(&BTreeSet::from([CLIENTS]), &BTreeSet::from([NODE]));
    for (counter, strike) in
        [(Counter::Lost, Proxies::lose as fn(&Proxies, &BTreeSet<Link>)), (Counter::Late, Proxies::delay)]
    {
        strike(&world.proxies, &all);
        let began = Instant::now();
        for number in 0..30 {
            caller.write_all(&[number]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(hear(&mut node, 30).await, (0..30).collect::<Vec<u8>>());
        assert!(world.proxies.counted(counter) > 0, "{counter:?}");
        assert!(began.elapsed() >= Duration::from_millis(200), "{counter:?}: {:?}", began.elapsed());
        strike(&world.proxies, &BTreeSet::new());
    }
    assert!(is_heard(&mut caller, &mut node).await);
}

//! The addresses of a node: whether it can listen there, and whether it reaches the others.

use std::{io, time::Duration};

use anyhow::Result;
use levada_broker::config::SeedNode;
use levada_client::NodeId;
use levada_protocol::messages::native::ClusterStatusResponse;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    time::timeout,
};

use super::{Finding, configuration::Configuration};
use crate::scrape::http;

/// How long another node may take to take a connection.
const WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn check(configuration: &Configuration, cluster: Option<&ClusterStatusResponse>) -> Vec<Finding> {
    let config = &configuration.config;
    let health = http::get(&config.listen.http, "/health/live", WITHIN).await;
    let is_running = health.is_ok_and(|answer| answer.body.contains("\"alive\""));
    let mut findings = Vec::new();
    let doors = [
        ("listen.native", &config.listen.native),
        ("listen.flight", &config.listen.flight),
        ("listen.http", &config.listen.http),
    ];
    for (key, address) in doors {
        let bound = TcpListener::bind(address).await.map(drop);
        findings.push(judge(key, address, bound.as_ref().map_err(io::Error::kind).copied(), is_running));
    }
    if !configuration.is_of_a_node {
        return findings;
    }
    let advertised = [&config.advertised.native, &config.advertised.flight, &config.advertised.http];
    for address in advertised.into_iter().filter(|address| !address.is_empty()) {
        if let Err(error) = lookup_host(address).await {
            let todo = "others cannot come under this name: mend it, or the name service";
            findings.push(Finding::wrong("advertised", format!("{address}: {error}"), todo));
        }
    }
    for seed in config.seed_nodes.iter().filter(|seed| seed.node != config.node()) {
        findings.push(match connect(&seed.native).await {
            Ok(()) => Finding::ok("seed-nodes", format!("{seed} takes connections")),
            Err(error) => silent(seed, &error, knows(cluster, config.node(), seed.node)),
        });
    }
    findings
}

/// Whether the cluster of a node knows another one; `None` if it was not asked, or is another cluster.
fn knows(cluster: Option<&ClusterStatusResponse>, own: NodeId, other: NodeId) -> Option<bool> {
    let cluster = cluster?;
    let has = |node: NodeId| {
        cluster.nodes.iter().filter_map(|known| known.addresses.as_ref()).any(|known| known.node_id == node.get())
    };
    has(own).then(|| has(other))
}

/// A seed node that takes no connections.
fn silent(seed: &SeedNode, error: &anyhow::Error, is_known: Option<bool>) -> Finding {
    if is_known == Some(false) {
        let saw = format!("{seed} takes no connections, and the cluster has no node {} (any more)", seed.node);
        let todo = format!(
            "take it out of seed_nodes, here and in the files of the other nodes (`levada cluster add {}` makes it one again)",
            seed.node
        );
        return Finding::warning("seed-nodes", saw, todo);
    }
    let todo = "start that node, or open the way to it (firewall, routing); a new cluster wants all its seed nodes once, later a majority of those that vote";
    Finding::warning("seed-nodes", format!("{seed}: {error:#}"), todo)
}

async fn connect(address: &str) -> Result<()> {
    timeout(WITHIN, TcpStream::connect(address)).await??;
    Ok(())
}

/// What it means that an address could be bound, or could not.
fn judge(key: &'static str, address: &str, bound: Result<(), io::ErrorKind>, is_running: bool) -> Finding {
    let saw = |what: &str| format!("{address} {what}");
    match bound {
        Ok(()) => Finding::ok(key, saw("is free")),
        Err(io::ErrorKind::AddrInUse) if is_running => {
            Finding::ok(key, saw("is in use; a node runs here (this one, if it was started)"))
        }
        Err(io::ErrorKind::AddrInUse) => {
            let todo = format!("`ss -ltnp` shows who has it: stop that, or set {key} to another port");
            Finding::wrong(key, saw("is in use, and not by a node"), todo)
        }
        Err(io::ErrorKind::AddrNotAvailable) => {
            let todo = format!("set {key} to an address that `ip address` shows, and advertised to where others come");
            Finding::wrong(key, saw("is no address of this machine"), todo)
        }
        Err(io::ErrorKind::PermissionDenied) => {
            Finding::wrong(key, saw("may not be bound by this user"), format!("set {key} to a port of 1024 or more"))
        }
        Err(other) => Finding::wrong(key, saw(&format!("cannot be bound: {other}")), format!("set {key} to another")),
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::{NodeAddresses, NodeStatus};

    use super::{super::State, *};

    #[test]
    fn a_port_in_use_is_wrong_unless_by_a_node() {
        let state = |bound, is_running| judge("listen.native", "127.0.0.1:9170", bound, is_running).state;
        assert_eq!(state(Ok(()), false), State::Ok);
        assert_eq!(state(Err(io::ErrorKind::AddrInUse), true), State::Ok);
        for kind in [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable, io::ErrorKind::PermissionDenied] {
            assert_eq!(state(Err(kind), false), State::Wrong);
        }
    }

    #[test]
    fn a_seed_that_has_left_is_not_one_that_is_down() {
        let node = |node_id| NodeStatus {
            addresses: Some(NodeAddresses { node_id, ..NodeAddresses::default() }),
            ..NodeStatus::default()
        };
        let cluster = ClusterStatusResponse { nodes: vec![node(1), node(2)], ..ClusterStatusResponse::default() };
        let of = |own, other| knows(Some(&cluster), NodeId(own), NodeId(other));
        assert_eq!([of(1, 2), of(1, 3), of(4, 3)], [Some(true), Some(false), None], "4 is of another cluster");
        let seed = SeedNode { node: NodeId(3), native: "a:1".to_owned() };
        let finding = |is_known| silent(&seed, &anyhow::anyhow!("refused"), is_known);
        assert!(finding(Some(false)).todo.starts_with("take it out of seed_nodes"));
        assert!(
            finding(Some(true)).todo.starts_with("start that node")
                && finding(None).todo.starts_with("start that node")
        );
    }

    #[tokio::test]
    async fn who_listens_is_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        connect(&address).await.unwrap();
        drop(listener);
        assert!(connect(&address).await.is_err());
    }
}

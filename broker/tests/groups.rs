//! Consumer groups over real sockets and disks: two members share a topic while their coordinator dies.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use common::{Client, LONG, TestNode, cluster};
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode, Result},
    frame::Api,
    messages::native::{
        FindCoordinatorRequest, FindCoordinatorResponse, GroupBeat, GroupCommit, GroupDelete, GroupHeartbeat,
        GroupLeave, GroupListRequest, GroupMembersRequest, GroupOffset, GroupOffsetsRequest, GroupRequest,
        GroupResponse, TopicInfo, find_coordinator_request::Of, group_request::Ask, group_response::Answer,
    },
};
use tokio::time::{sleep, timeout};

const GROUP: &str = "readers";

async fn find(client: &mut Client, of: Of) -> Result<FindCoordinatorResponse> {
    Ok(client.call(Api::FindCoordinator, &FindCoordinatorRequest { of: Some(of) }, Bytes::new()).await?.0)
}

/// Asks the coordinator, wherever it is, until it says something that holds.
async fn ask(nodes: &[TestNode], of: Of, ask: Ask) -> Result<Answer> {
    let request = GroupRequest { ask: Some(ask) };
    let told = async {
        loop {
            for node in nodes.iter().filter(|node| node.running.is_some()) {
                let answer = async {
                    let mut client = Client::connect(node.address()).await?;
                    let leader = find(&mut client, of.clone()).await?.leader;
                    let leader = leader.ok_or_else(|| Error::new(ErrorCode::NotReady, "no leader"))?;
                    let mut client = Client::connect(&leader.native).await?;
                    let (response, _): (GroupResponse, _) = client.call(Api::Group, &request, Bytes::new()).await?;
                    Ok::<_, Error>(response.answer.unwrap())
                };
                match answer.await {
                    Err(error) if matches!(error.class(), ErrorClass::Retry | ErrorClass::Redirect) => {}
                    // A new cluster's level rises in a moment.
                    Err(error) if error.code == ErrorCode::FeatureLevel => {}
                    other => return other,
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, told).await.expect("an answer")
}

async fn of_group(nodes: &[TestNode], what: Ask) -> Result<Answer> {
    ask(nodes, Of::Group(GROUP.into()), what).await
}

/// A member, as a client library would be one.
#[derive(Default)]
struct Member {
    id: String,
    epoch: u64,
    version: u64,
    owned: BTreeSet<u32>,
}

impl Member {
    fn new(id: &str) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    async fn beat(&mut self, nodes: &[TestNode]) -> Result<()> {
        let topics = if self.epoch == 0 { vec!["orders".to_owned()] } else { vec![] };
        let heartbeat = GroupHeartbeat {
            group: GROUP.into(),
            member: self.id.clone(),
            epoch: self.epoch,
            seen: self.version,
            topics,
            wish: 1,
            ..Default::default()
        };
        let Answer::Beat(GroupBeat { epoch, version, assignment, .. }) =
            of_group(nodes, Ask::Heartbeat(heartbeat)).await?
        else {
            panic!("not what was asked")
        };
        (self.epoch, self.version) = (epoch, version);
        if let Some(assignment) = assignment {
            self.owned = assignment.partitions.into_iter().flat_map(|topic| topic.partitions).collect();
        }
        Ok(())
    }

    async fn commit(&self, nodes: &[TestNode], topic: &TopicInfo, offset: u64) -> Result<()> {
        let offsets = self.owned.iter().map(|partition| GroupOffset {
            topic_id: topic.topic_id.clone(),
            partition: *partition,
            offset,
            metadata: self.id.clone(),
            ..Default::default()
        });
        let commit = GroupCommit {
            group: GROUP.into(),
            member: Some(self.id.clone()),
            epoch: self.epoch,
            offsets: offsets.collect(),
        };
        of_group(nodes, Ask::Commit(commit)).await.map(drop)
    }
}

async fn committed(nodes: &[TestNode]) -> Vec<(u32, u64, String)> {
    let request = GroupOffsetsRequest { group: GROUP.into(), after: None };
    match of_group(nodes, Ask::Offsets(request)).await.unwrap() {
        Answer::Offsets(page) if !page.more => {
            page.offsets.into_iter().map(|offset| (offset.partition, offset.offset, offset.metadata)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_on_when_their_coordinator_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    let topic = create(&nodes, "orders", 4).await;
    let (mut one, mut two) = (Member::new("one"), Member::new("two"));
    one.beat(&nodes).await.unwrap();
    assert_eq!(one.owned, BTreeSet::from([0, 1, 2, 3]));
    two.beat(&nodes).await.unwrap();
    assert_eq!(two.owned, BTreeSet::new(), "nothing is free yet");
    one.commit(&nodes, &topic, 1).await.unwrap();
    one.beat(&nodes).await.unwrap();
    one.beat(&nodes).await.unwrap();
    two.beat(&nodes).await.unwrap();
    assert_eq!((one.owned.clone(), two.owned.clone()), ([0, 1].into(), [2, 3].into()));

    // The coordinator dies; the next one knows what it said.
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let leader = find(&mut client, Of::Group(GROUP.into())).await.unwrap().leader.unwrap().node_id;
    let at = nodes.iter().position(|node| node.config.node_id == leader).unwrap();
    nodes[at].crash().await;
    one.commit(&nodes, &topic, 10).await.unwrap();
    two.commit(&nodes, &topic, 20).await.unwrap();
    one.beat(&nodes).await.unwrap();
    two.beat(&nodes).await.unwrap();
    assert_eq!((one.owned.clone(), two.owned.clone()), ([0, 1].into(), [2, 3].into()), "nobody had to stop");
    let whose = |one: u64, two: u64| {
        let of = |partition, offset, id: &str| (partition, offset, id.to_owned());
        vec![of(0, one, "one"), of(1, one, "one"), of(2, two, "two"), of(3, two, "two")]
    };
    assert_eq!(committed(&nodes).await, whose(10, 20));

    // All of them die and come back.
    nodes[at].restart().await;
    for node in &mut nodes {
        node.crash().await;
    }
    for node in &mut nodes {
        node.restart().await;
    }
    assert_eq!(committed(&nodes).await, whose(10, 20));
    two.commit(&nodes, &topic, 30).await.unwrap();

    // Who leaves gives back what it had; what it says afterwards is refused.
    let leave = GroupLeave { group: GROUP.into(), member: "two".into(), epoch: two.epoch, returns: false };
    of_group(&nodes, Ask::Leave(leave)).await.unwrap();
    one.beat(&nodes).await.unwrap();
    assert_eq!(one.owned, BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(two.commit(&nodes, &topic, 40).await.unwrap_err().code, ErrorCode::MemberFenced);
    assert_eq!(committed(&nodes).await, whose(10, 30));
    operators(&nodes, &one).await;
}

/// What an operator asks and does.
async fn operators(nodes: &[TestNode], member: &Member) {
    let request = GroupMembersRequest { group: GROUP.into(), after: String::new() };
    let Answer::Members(described) = of_group(nodes, Ask::Members(request)).await.unwrap() else { panic!() };
    let info = described.group.unwrap();
    assert_eq!((info.state.as_str(), info.members, info.offsets, described.members.len()), ("stable", 1, 4, 1));
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let found = find(&mut client, Of::Group(GROUP.into())).await.unwrap();
    let list = Ask::List(GroupListRequest { coordinator: found.coordinator, after: String::new() });
    let Answer::List(listed) = ask(nodes, Of::Coordinator(found.coordinator), list).await.unwrap() else { panic!() };
    assert_eq!((listed.groups, listed.more), (vec![info], false));

    let delete = Ask::Delete(GroupDelete { group: GROUP.into() });
    let refused = of_group(nodes, delete.clone()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::GroupNotEmpty);
    let leave = GroupLeave { group: GROUP.into(), member: member.id.clone(), epoch: member.epoch, returns: false };
    of_group(nodes, Ask::Leave(leave)).await.unwrap();
    of_group(nodes, delete).await.unwrap();
    let request = GroupOffsetsRequest { group: GROUP.into(), after: None };
    assert_eq!(of_group(nodes, Ask::Offsets(request)).await.unwrap_err().code, ErrorCode::UnknownGroup);
}

async fn create(nodes: &[TestNode], name: &str, partitions: u32) -> TopicInfo {
    let make = async {
        loop {
            for node in nodes {
                let mut client = Client::connect(node.address()).await.unwrap();
                if let Ok(topic) = client.create_topic(name, partitions, 3).await {
                    return topic;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, make).await.expect("a topic")
}

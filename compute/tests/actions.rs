//! Everything that is not reading or writing records.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use arrow_flight::{Action, Criteria, Empty, HandshakeRequest};
use arrow_ipc::convert::try_schema_from_ipc_buffer;
use futures::{TryStreamExt, stream};
use levada_compute::schema::UNTYPED;
use levada_protocol::error::{Error, ErrorCode};
use serde_json::{Value, json};
use support::{Client, Running, command, error_of, path};

async fn act(client: &mut Client, name: &str, body: &Value) -> Result<Value, Error> {
    let action = Action::new(name, body.to_string());
    let results = client.do_action(action).await.map_err(|status| error_of(&status))?.into_inner();
    let results: Vec<_> = results.try_collect().await.unwrap();
    assert_eq!(results.len(), 1);
    Ok(serde_json::from_slice(&results[0].body).unwrap())
}

#[tokio::test]
async fn topics_come_and_go() {
    let running = Running::start().await;
    let mut client = running.client().await;
    let schema = json!({"fields": [{"name": "a", "type": "string"}]});
    let new = json!({"name": "t", "partitions": 2, "config": {"retention.ms": 5000}, "schema": schema});
    let created = act(&mut client, "create-topic", &new).await.unwrap();
    assert_eq!(created["config"]["retention.ms"], "5000");
    let canonical = json!({"fields": [{"name": "a", "type": "utf8", "nullable": true}]});
    assert_eq!(created["schema"], json!({"id": 1, "schema": canonical}));
    assert_eq!(created["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(created["partitions"][1]["leader"]["flight"], running.address.to_string());
    assert_eq!(act(&mut client, "describe-topic", &json!({"name": "t"})).await.unwrap(), created);
    act(&mut client, "create-topic", &json!({"name": "plain"})).await.unwrap();

    let criteria = Criteria { expression: "pl".into() };
    for (criteria, names) in [(Criteria::default(), vec!["plain", "t"]), (criteria, vec!["plain"])] {
        let infos: Vec<_> = client.list_flights(criteria).await.unwrap().into_inner().try_collect().await.unwrap();
        let listed: Vec<_> =
            infos.iter().map(|info| info.flight_descriptor.as_ref().unwrap().path[0].as_str()).collect();
        assert_eq!(listed, names);
    }
    act(&mut client, "delete-topic", &json!({"name": "t"})).await.unwrap();
    let error = act(&mut client, "describe-topic", &json!({"name": "t"})).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTopic);
}

#[tokio::test]
async fn offsets_producers_and_the_cluster() {
    let running = Running::start().await;
    running.topic("t", 2, None).await;
    for _ in 0..2 {
        running.log.push_values("t", 1, &[b"a", b"b"]);
    }
    let mut client = running.client().await;
    let asked = json!({"topic": "t", "time": "1970-01-01T00:00:01Z"});
    let offsets = act(&mut client, "offsets", &asked).await.unwrap();
    assert_eq!(offsets["partitions"][0]["high_watermark"], 0);
    assert_eq!(offsets["partitions"][1]["high_watermark"], 4);
    assert_eq!(offsets["partitions"][1]["offset_for_time"], 0);
    let one = act(&mut client, "offsets", &json!({"topic": "t", "partitions": [1]})).await.unwrap();
    assert_eq!(one["partitions"].as_array().unwrap().len(), 1);

    let first = act(&mut client, "init-producer", &json!({})).await.unwrap();
    let second = act(&mut client, "init-producer", &json!({})).await.unwrap();
    assert_ne!(first["producer_id"], second["producer_id"]);
    let cluster = act(&mut client, "cluster-id", &json!({})).await.unwrap();
    assert_eq!(cluster["cluster_id"], "07070707-0707-0707-0707-070707070707");
}

#[tokio::test]
async fn schemas_and_lists() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut client = running.client().await;
    let schema = client.get_schema(path(&["t"])).await.unwrap().into_inner();
    assert_eq!(&try_schema_from_ipc_buffer(&schema.schema).unwrap(), UNTYPED.as_ref());
    let one = client.get_schema(command(r#"{"topic":"t","columns":["key"]}"#)).await.unwrap().into_inner();
    assert_eq!(try_schema_from_ipc_buffer(&one.schema).unwrap().fields().len(), 1);
    let actions: Vec<_> = client.list_actions(Empty {}).await.unwrap().into_inner().try_collect().await.unwrap();
    assert!(actions.iter().any(|action| action.r#type == "create-topic" && !action.description.is_empty()));
    let hello = HandshakeRequest { protocol_version: 1, ..HandshakeRequest::default() };
    let answers = client.handshake(stream::iter([hello])).await.unwrap().into_inner();
    assert_eq!(answers.try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let running = Running::start().await;
    running.topic("t", 1, None).await;
    let mut client = running.client().await;
    for (name, body, code, says) in [
        ("drop-everything", json!({}), ErrorCode::UnknownApi, "there are create-topic,"),
        ("create-topic", json!({"name": "t"}), ErrorCode::TopicExists, "t exists"),
        ("create-topic", json!({"name": "a b"}), ErrorCode::InvalidName, "a b"),
        ("create-topic", json!({"name": "x", "partition": 3}), ErrorCode::InvalidRequest, "unknown field `partition`"),
        ("create-topic", json!({"name": "x", "config": {"size": 3}}), ErrorCode::InvalidConfig, "\"size\""),
        ("create-topic", json!({"name": "x", "schema": {"fields": []}}), ErrorCode::InvalidConfig, "no fields"),
        ("offsets", json!({"topic": "t", "partitions": [7]}), ErrorCode::UnknownPartition, "no partition 7"),
        ("offsets", json!({"topic": "t", "time": "noon"}), ErrorCode::InvalidRequest, "\"noon\""),
        ("init-producer", json!({"epoch": 1}), ErrorCode::InvalidRequest, "unknown field `epoch`"),
        ("describe-topic", json!([]), ErrorCode::InvalidRequest, "not what is expected"),
    ] {
        let error = act(&mut client, name, &body).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{error}");
    }
    let status = client.poll_flight_info(path(&["t"])).await.unwrap_err();
    assert_eq!((status.code(), error_of(&status).code), (tonic::Code::Unimplemented, ErrorCode::UnknownApi));
}

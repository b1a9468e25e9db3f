//! The metadata as registers: a topic's setting is one.
//!
//! A key is a topic that several processes try to create at once, each with a value of its own in a setting: **compare-and-set** from
//! nothing. Whoever loses is told that the topic is there. Then they read and write the setting. All of it must look as if it had
//! happened one after the other, in an order that real time allows (linearizable), whoever was asked and whatever failed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use levada_checkers::history::{Key, Op, Phase, Process, Value};
use levada_client::{Admin, ErrorCode, NewTopic, Topic};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::Barrier,
    time::{sleep, timeout},
};

use super::{Orders, Stopped, Work, log::PATIENCE, queue::again};
use crate::stage::Stage;

/// Processes that race for one key.
const RACERS: u32 = 5;
/// Groups of racers.
const GROUPS: u32 = 6;
/// What each does with a key after the race.
const OPERATIONS_PER_KEY: u32 = 12;
/// Between two operations of a process, on average.
const PAUSE: Duration = Duration::from_millis(40);
/// The setting, and what stands for the value 0 in it.
const SETTING: &str = "retention.ms";
const ZERO: u64 = 1_000_000_000_000;

pub(super) fn begin(work: &mut Work, stage: &Arc<Stage>, orders: &Orders) {
    for group in 0..GROUPS {
        let together = Arc::new(Barrier::new(RACERS as usize));
        for racer in 0..RACERS {
            let dice = StdRng::seed_from_u64(orders.seed ^ u64::from(group * RACERS + racer + 1) << 20);
            let who = Racer { group, racer, orders: *orders };
            work.spawn(race(Arc::clone(stage), who, dice, Arc::clone(&together), work.stopped()));
        }
    }
}

/// Who races.
struct Racer {
    group: u32,
    racer: u32,
    orders: Orders,
}

/// One process: key after key, together with its group.
async fn race(stage: Arc<Stage>, who: Racer, mut dice: StdRng, together: Arc<Barrier>, mut stopped: Stopped) {
    let Racer { group, racer, orders } = who;
    let (mut process, mut asked, mut number) = (stage.recorder.process(), None, 0);
    for round in 0_u32.. {
        let key = round * GROUPS + group;
        // Who does not come any more must not be waited for.
        tokio::select! {
            _ = together.wait() => {}
            () = stopped.wait() => return,
        }
        for turn in 0..=OPERATIONS_PER_KEY {
            if stopped.is() {
                return;
            }
            let Some(admin) = again(&mut asked, &stage).await else { continue };
            number += 1;
            let value = u64::from(racer) << 20 | number;
            let op = match turn {
                0 => Op::Cas { key, expected: None, value },
                _ if dice.random_bool(0.5) => Op::Write { key, value },
                _ => Op::Read { key, value: None },
            };
            if !perform(&stage, admin, process, op, &orders).await {
                // Nobody knows what became of it: such a process does nothing any more.
                process = stage.recorder.process();
                asked = None;
            }
            sleep(PAUSE.mul_f64(dice.random_range(0.0..2.0))).await;
        }
        if racer == 0 {
            clean_up(&stage, round, group).await;
        }
    }
}

/// Does it, and notes what came of it. Whether that is known.
async fn perform(stage: &Stage, admin: &Admin, process: Process, op: Op, orders: &Orders) -> bool {
    let invocation = stage.recorder.invoke(process, None, op.clone());
    let answer = match &op {
        Op::Cas { key, value, .. } => {
            timeout(PATIENCE, admin.create_topic(topic(*key, *value, orders.replicas))).await.map(|made| match made {
                Ok(_) => Ok(Some(op.clone())),
                Err(error) if error.code == ErrorCode::TopicExists => Ok(None),
                Err(error) => Err(error),
            })
        }
        Op::Write { key, value } => {
            let set = BTreeMap::from([setting(*value)]);
            timeout(PATIENCE, admin.alter_topic(&name(*key), set, Vec::new()))
                .await
                .map(|altered| altered.map(|_| Some(op.clone())))
        }
        _ => {
            let key = op.key();
            timeout(PATIENCE, admin.describe_topic(&name(key))).await.map(|described| match described {
                Ok(topic) => Ok(Some(Op::Read { key, value: value_of(&topic) })),
                Err(error) if error.code == ErrorCode::UnknownTopic => Ok(Some(Op::Read { key, value: None })),
                Err(error) => Err(error),
            })
        }
    };
    match answer {
        Ok(Ok(Some(done))) => {
            stage.recorder.ok(process, None, invocation, done);
            true
        }
        // It held another value: that is known, and no error.
        Ok(Ok(None)) => {
            stage.recorder.refused(process, invocation, op);
            true
        }
        Ok(Err(error)) => {
            // An earlier try may have been done, or be done yet.
            let known = !op.changes();
            let phase = if known { Phase::Fail } else { Phase::Info };
            stage.recorder.ended(process, invocation, phase, op, error.to_string());
            known
        }
        Err(_) => {
            let phase = if op.changes() { Phase::Info } else { Phase::Fail };
            stage.recorder.ended(process, invocation, phase, op, "no answer".to_owned());
            false
        }
    }
}

/// Old keys go, so that there are never many topics. What becomes of them is nobody's business any more.
async fn clean_up(stage: &Stage, round: u32, group: u32) {
    let Some(old) = round.checked_sub(3) else { return };
    if let Some(admin) = again(&mut None, stage).await {
        let _ = timeout(PATIENCE, admin.delete_topic(&name(old * GROUPS + group))).await;
    }
}

fn name(key: Key) -> String {
    format!("register-{key}")
}

fn setting(value: Value) -> (String, String) {
    (SETTING.to_owned(), (ZERO + value).to_string())
}

fn topic(key: Key, value: Value, replicas: u32) -> NewTopic {
    let config = BTreeMap::from([setting(value)]);
    NewTopic { name: name(key), partitions: 1, replicas, config, schema_json: None }
}

fn value_of(topic: &Topic) -> Option<Value> {
    topic.config.get(SETTING)?.parse::<u64>().ok()?.checked_sub(ZERO)
}

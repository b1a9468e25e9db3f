//! Members join, say that they are there, and leave; the group's epoch rises and a target is computed.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    topic::check_topic_name,
};

use super::{Coordinator, check_name, quota, reconcile};
use crate::{
    assign::{Assignor, Wish},
    command::{Beat, Heartbeat, Now},
    limits::{
        GROUP_MEMBERS_MAX, GROUP_PARTITIONS_MAX, GROUP_TOPICS_MAX, GROUPS_MAX, HEARTBEAT_MS_MAX,
        HEARTBEATS_PER_SESSION, MEMBERS_MAX, REBALANCE_TIMEOUT_MS, REBALANCE_TIMEOUT_MS_DEFAULT, SESSION_TIMEOUT_MS,
        SESSION_TIMEOUT_MS_DEFAULT, SUBSCRIPTION_TOPICS_MAX,
    },
    record::Record,
    state::{Group, Head, Held, Member, MemberId},
    topics::{TopicShape, Topics, Version},
    weight,
};

impl Coordinator {
    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        heartbeat: Heartbeat,
        topics: &impl Topics,
        out: &mut Vec<Record>,
    ) -> Result<Beat> {
        let (name, id) = (heartbeat.group.as_str(), &heartbeat.member);
        let known = self.state.group(name).and_then(|group| group.members.get(id));
        if let Some(member) = known.filter(|_| self.watch.is_refused(name, id)) {
            return Err(held_on(name, id, member));
        }
        // Who joins and is known was not answered, or this was long under way: it is told again, and nothing else.
        let is_repeated = match known {
            None if heartbeat.epoch == 0 => {
                self.join(&heartbeat, topics, out)?;
                false
            }
            Some(member) if member.away => return Err(fenced(name, id, heartbeat.epoch, None)),
            Some(_) if heartbeat.epoch == 0 => true,
            Some(member) if heartbeat.epoch == member.epoch => false,
            Some(member) if heartbeat.epoch == member.previous_epoch => true,
            _ => return Err(fenced(name, id, heartbeat.epoch, known)),
        };
        if let Some(wanted) = &heartbeat.topics
            && self.group(name)?.members.get(id).is_some_and(|member| member.wish < heartbeat.wish)
        {
            self.subscribe((name, id), (wanted, heartbeat.wish), topics, out)?;
        }
        let group = self.group(name)?;
        let member = group.members.get(id).expect("it is known, or has joined");
        let next = if is_repeated { None } else { reconcile::next(group, id, member, heartbeat.seen) };
        let member = next.clone().unwrap_or_else(|| member.clone());
        if let Some(next) = next {
            self.write(Record::Member { group: name.to_owned(), id: id.clone(), member: next }, out);
        }
        self.watch.heard(name, id, &member, now);
        Ok(beat(&member, heartbeat.seen))
    }

    fn join(&mut self, heartbeat: &Heartbeat, topics: &impl Topics, out: &mut Vec<Record>) -> Result<()> {
        let (name, id) = (&heartbeat.group, &heartbeat.member);
        let wanted = check_join(heartbeat)?;
        let group = self.state.group(name);
        let returned = match (&heartbeat.instance, group) {
            (Some(instance), Some(group)) => group.instance(instance),
            _ => None,
        };
        if let (Some((other, member)), Some(instance)) = (returned, &heartbeat.instance)
            && !member.away
        {
            let why = format!(
                "member {other} of group {name:?} has the static id {instance:?}; let it leave, wait until its session ends, or \
                 give each consumer an id of its own"
            );
            return Err(Error::new(ErrorCode::InstanceInUse, why));
        }
        let returned = returned.map(|(other, member)| (other.clone(), member.clone()));
        if returned.is_none() {
            self.check_room(group)?;
        }
        let is_new = returned.is_none();
        let member = Member {
            instance: heartbeat.instance.clone(),
            client: heartbeat.client.clone(),
            session_timeout_ms: or_default(heartbeat.session_timeout_ms, SESSION_TIMEOUT_MS_DEFAULT),
            rebalance_timeout_ms: or_default(heartbeat.rebalance_timeout_ms, REBALANCE_TIMEOUT_MS_DEFAULT),
            topics: wanted.clone(),
            wish: heartbeat.wish,
            assignor: heartbeat.assignor,
            epoch: 0,
            previous_epoch: 0,
            version: 0,
            owned: Held::new(),
            revoking: Held::new(),
            away: false,
        };
        if is_new {
            let head = if group.is_none() { weight::name(name) } else { 0 };
            self.check_bytes(head + weight::member(name, id, &member))?;
        }
        if group.is_none() {
            let head = Head {
                epoch: 0,
                assignor: Assignor::default(),
                topics: BTreeMap::new(),
                seen: Version::default(),
                idle_hours: None,
            };
            self.write(Record::Head { group: name.clone(), head }, out);
        }
        let Some((other, before)) = returned else {
            self.write(Record::Member { group: name.clone(), id: id.clone(), member }, out);
            self.rebalance(name, topics, out);
            return Ok(());
        };
        // What it had is still its: nobody else notices that it was away.
        let target = self.group(name)?.target(&other).collect();
        self.drop_member(name, &other, out);
        let is_same = before.topics == member.topics && before.assignor == member.assignor;
        self.write(Record::Member { group: name.clone(), id: id.clone(), member }, out);
        self.write(Record::Target { group: name.clone(), id: id.clone(), places: target }, out);
        if !is_same {
            self.rebalance(name, topics, out);
        }
        Ok(())
    }

    fn check_room(&self, group: Option<&Group>) -> Result<()> {
        if group.is_none() && self.state.len() >= GROUPS_MAX {
            return Err(quota("groups", GROUPS_MAX));
        }
        if self.state.members() >= MEMBERS_MAX {
            return Err(quota("members", MEMBERS_MAX));
        }
        if group.is_some_and(|group| group.members.len() >= GROUP_MEMBERS_MAX) {
            let why = format!("the group has {GROUP_MEMBERS_MAX} members, as many as it may");
            return Err(Error::new(ErrorCode::GroupQuota, why));
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        (name, id): (&str, &MemberId),
        (wanted, wish): (&BTreeSet<String>, u64),
        topics: &impl Topics,
        out: &mut Vec<Record>,
    ) -> Result<()> {
        check_topics(wanted)?;
        let mut member = self.group(name)?.members.get(id).expect("it is known").clone();
        let is_other = member.topics != *wanted;
        let before = weight::member(name, id, &member);
        member.topics.clone_from(wanted);
        self.check_bytes(weight::member(name, id, &member).saturating_sub(before))?;
        member.wish = wish;
        self.write(Record::Member { group: name.to_owned(), id: id.clone(), member }, out);
        if is_other {
            self.rebalance(name, topics, out);
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what the command says, and what every change needs")]
    pub(super) fn leave(
        &mut self,
        now: Now,
        name: &str,
        id: &MemberId,
        epoch: u64,
        returns: bool,
        topics: &impl Topics,
        out: &mut Vec<Record>,
    ) -> Result<()> {
        let known = self.group(name)?.members.get(id).filter(|member| !member.away);
        let member = known.filter(|member| [member.epoch, member.previous_epoch].contains(&epoch));
        let mut member = member.cloned().ok_or_else(|| fenced(name, id, epoch, known))?;
        if returns && member.instance.is_some() {
            // It has nothing any more. What it is to have, nobody else is to have.
            member.away = true;
            member.owned.clear();
            member.revoking.clear();
            self.watch.heard(name, id, &member, now);
            self.write(Record::Member { group: name.to_owned(), id: id.clone(), member }, out);
            return Ok(());
        }
        self.drop_member(name, id, out);
        self.rebalance(name, topics, out);
        Ok(())
    }

    pub(super) fn drop_member(&mut self, name: &str, id: &MemberId, out: &mut Vec<Record>) {
        self.watch.forget(name, id);
        self.write(Record::MemberGone { group: name.to_owned(), id: id.clone() }, out);
    }

    /// Who wants what has changed: the next epoch, and its target.
    pub(super) fn rebalance(&mut self, name: &str, topics: &impl Topics, out: &mut Vec<Record>) {
        let Some(group) = self.state.group(name) else { return };
        let shapes = shapes(group, topics, self.room_bytes());
        let assignor = elected(group);
        let idle_hours = group.members.is_empty().then(|| group.head.idle_hours.unwrap_or(0));
        let seen = topics.version().max(group.head.seen);
        let head = Head { epoch: group.head.epoch + 1, assignor, topics: shapes, seen, idle_hours };
        let nothing = BTreeSet::new();
        let wishes = group.members.iter().map(|(id, member)| {
            let order = member.instance.as_deref().unwrap_or(id.as_str());
            (id.clone(), Wish { order, topics: &member.topics, had: group.targets.get(id).unwrap_or(&nothing) })
        });
        let targets = assignor.assign(&wishes.collect(), &head.topics);
        let changed: Vec<_> =
            targets.into_iter().filter(|(id, places)| group.targets.get(id) != Some(places)).collect();
        self.write(Record::Head { group: name.to_owned(), head }, out);
        for (id, places) in changed {
            self.write(Record::Target { group: name.to_owned(), id, places }, out);
        }
    }
}

/// The topics that members want and that there are, with as many partitions as may be shared out, and as the coordinator has room
/// for. What is shared out already stays as it is while the metadata here is older than what it was computed from: a new leader
/// may not have heard of a topic, or of all its partitions.
pub(super) fn shapes(group: &Group, topics: &impl Topics, mut room_bytes: usize) -> BTreeMap<String, TopicShape> {
    let wanted: BTreeSet<&String> = group.members.values().flat_map(|member| &member.topics).collect();
    let is_behind = topics.version() < group.head.seen;
    let mut shapes = BTreeMap::new();
    let mut partitions = 0;
    for name in wanted {
        let known = group.head.topics.get(name);
        let said = if is_behind { known.copied().or_else(|| topics.shape(name)) } else { topics.shape(name) };
        let Some(mut shape) = said else { continue };
        let known = known.filter(|known| known.id == shape.id);
        // No topic ever has fewer.
        shape.partitions = shape.partitions.max(known.map_or(0, |known| known.partitions));
        let known_bytes = known.map_or(0, |known| weight::topic(name, known.partitions));
        let more_bytes = weight::topic(name, shape.partitions) - known_bytes;
        if let Some(left) = room_bytes.checked_sub(more_bytes) {
            room_bytes = left;
        } else if let Some(known) = known {
            shape = *known;
        } else {
            continue;
        }
        partitions += shape.partitions as usize;
        if partitions > GROUP_PARTITIONS_MAX || shapes.len() == GROUP_TOPICS_MAX {
            break;
        }
        shapes.insert(name.clone(), shape);
    }
    shapes
}

/// The assignor that most members would have, of those the one with the lowest number.
fn elected(group: &Group) -> Assignor {
    let votes = |assignor: Assignor| group.members.values().filter(|member| member.assignor == Some(assignor)).count();
    let most = Assignor::ALL.into_iter().rev().max_by_key(|assignor| votes(*assignor));
    most.filter(|assignor| votes(*assignor) > 0).unwrap_or_default()
}

fn beat(member: &Member, seen: u64) -> Beat {
    let assignment = || member.owned.keys().copied().collect();
    Beat {
        epoch: member.epoch,
        version: member.version,
        heartbeat_ms: (member.session_timeout_ms / HEARTBEATS_PER_SESSION).min(HEARTBEAT_MS_MAX),
        session_timeout_ms: member.session_timeout_ms,
        assignment: (seen != member.version).then(assignment),
    }
}

fn or_default(asked: u32, default: u32) -> u32 {
    if asked == 0 { default } else { asked }
}

fn check_join(heartbeat: &Heartbeat) -> Result<&BTreeSet<String>> {
    check_name("a group's name", &heartbeat.group)?;
    check_name("a member's id", heartbeat.member.as_str())?;
    if let Some(instance) = &heartbeat.instance {
        check_name("a static id", instance)?;
    }
    if !heartbeat.client.is_empty() {
        check_name("a client's id", &heartbeat.client)?;
    }
    let session = or_default(heartbeat.session_timeout_ms, SESSION_TIMEOUT_MS_DEFAULT);
    let rebalance = or_default(heartbeat.rebalance_timeout_ms, REBALANCE_TIMEOUT_MS_DEFAULT);
    for (what, value, range) in
        [("session", session, SESSION_TIMEOUT_MS), ("rebalance", rebalance, REBALANCE_TIMEOUT_MS)]
    {
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            let why = format!("a {what} timeout of {value} ms is out of range; use {least} to {most}");
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
    }
    let wanted = heartbeat.topics.as_ref().filter(|topics| !topics.is_empty()).ok_or_else(|| {
        Error::new(ErrorCode::InvalidRequest, "a member joins with the topics that it wants; name one at least")
    })?;
    check_topics(wanted)?;
    Ok(wanted)
}

fn check_topics(wanted: &BTreeSet<String>) -> Result<()> {
    if wanted.len() > SUBSCRIPTION_TOPICS_MAX {
        let why = format!("a member may subscribe to {SUBSCRIPTION_TOPICS_MAX} topics, not to {}", wanted.len());
        return Err(Error::new(ErrorCode::GroupQuota, why));
    }
    wanted.iter().try_for_each(|name| check_topic_name(name))
}

/// A member speaks that has not let go in time.
fn held_on(group: &str, id: &MemberId, member: &Member) -> Error {
    let why = format!(
        "member {id} of group {group:?} has not let go of partitions for {} ms; stop what you do for the group, and join again under \
         a new id",
        member.rebalance_timeout_ms
    );
    Error::new(ErrorCode::MemberFenced, why)
}

/// A member speaks that the group does not know, or under an epoch that is over.
pub(super) fn fenced(group: &str, id: &MemberId, epoch: u64, known: Option<&Member>) -> Error {
    let why = known.map_or_else(
        || format!("group {group:?} does not know member {id} (any more)"),
        |member| format!("member {id} of group {group:?} is in epoch {}, not {epoch}", member.epoch),
    );
    Error::new(ErrorCode::MemberFenced, format!("{why}; stop what you do for the group, and join again under a new id"))
}

//! Feature levels: what may stand in the log of group 0, so that builds of different age can work side by side.
//!
//! Every node applies every command, or the nodes would differ. So a command that an older build does not know must not
//! be written while a node of that build is there. A node says when it registers up to which level its build goes; when all
//! nodes go further than the cluster does, the controller raises the cluster's level, durably and for good, and from
//! then on commands of that level may be written. So a rolling upgrade goes node by node, and can be taken back as long as
//! one node has not been upgraded. A build that is older than the level is refused, and does not start.

/// The first: topics, registration, producer ids.
pub const LEVEL_FIRST: u32 = 1;
/// Nodes come and go, replicas move.
pub const LEVEL_MEMBERSHIP: u32 = 2;
/// Groups sleep, and nodes say for all of them that they are there.
pub const LEVEL_HIBERNATION: u32 = 3;
/// Partitions without a majority go on from one replica; nodes whose replica of the metadata is lost get another.
pub const LEVEL_RECOVERY: u32 = 3;
/// What a client asks for again, because an answer was lost, is done once: topics know which requests changed them, and those that
/// were deleted are not made again.
pub const LEVEL_ONCE: u32 = 4;
const _: () = assert!(LEVEL_RECOVERY <= LEVEL_HIBERNATION);
/// Coordinator partitions, whose replicas all apply what is in them.
pub const LEVEL_GROUPS: u32 = 5;
/// The highest that this build knows. (The feature `level-1` makes a build that stands for an older one, for tests of
/// the upgrade.)
pub const LEVEL_MAX: u32 = if cfg!(feature = "level-1") { LEVEL_FIRST } else { LEVEL_GROUPS };

//! Election timeouts without ambient randomness.

use raft::StateRole;

use super::ELECTION_TICKS;

/// The election timeout, in ticks, of a replica in a term and role: spread over `ELECTION_TICKS..2 * ELECTION_TICKS`
/// by a hash, so that replicas differ from each other and from term to term, and a run can be repeated exactly.
#[must_use]
pub fn election_timeout(group: u64, replica: u64, term: u64, role: StateRole) -> usize {
    let mut x = replica.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ term.wrapping_mul(0xD1B5_4A32_D192_ED03)
        ^ group.wrapping_mul(0x8CB9_2BA7_2F3D_8DD7)
        ^ ((role as u64) << 7);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    let spread = ELECTION_TICKS as u64;
    ELECTION_TICKS + usize::try_from(x % spread).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_stay_in_range_and_differ_between_replicas_and_terms() {
        let draw = |replica, term| election_timeout(7, replica, term, StateRole::Follower);
        let all: Vec<usize> = (1..=5).flat_map(|replica| (1..=40).map(move |term| draw(replica, term))).collect();
        assert!(all.iter().all(|ticks| (ELECTION_TICKS..2 * ELECTION_TICKS).contains(ticks)));
        for value in ELECTION_TICKS..2 * ELECTION_TICKS {
            assert!(all.contains(&value), "{value} never drawn");
        }
        let ties = (1..=1000).filter(|&term| draw(1, term) == draw(2, term)).count();
        assert!(ties < 150, "{ties} ties in 1000 terms");
    }
}

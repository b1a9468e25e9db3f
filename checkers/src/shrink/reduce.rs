//! Leaving out, as long as something stays so.

/// Marks as not kept whichever of these groups can go: halves of them, quarters, …, at last each by itself, until none can.
pub(super) fn reduce(groups: Vec<Vec<usize>>, kept: &mut Vec<bool>, still: &mut dyn FnMut(&[bool]) -> bool) {
    let mut left = groups;
    let mut size = left.len();
    while !left.is_empty() {
        size = size.div_ceil(2);
        let before = left.len();
        let mut at = 0;
        while at < left.len() {
            let end = left.len().min(at + size);
            if try_without(&left[at..end], kept, still) {
                left.drain(at..end);
            } else {
                at = end;
            }
        }
        if size == 1 && left.len() == before {
            return;
        }
    }
}

/// The same with windows that lie across one another: half of the groups wide, a quarter, …, two.
pub(super) fn windows(groups: &[Vec<usize>], kept: &mut Vec<bool>, still: &mut dyn FnMut(&[bool]) -> bool) {
    let mut width = groups.len() / 2;
    while width >= 2 {
        for at in (0..=groups.len() - width).step_by(width / 2) {
            try_without(&groups[at..at + width], kept, still);
        }
        width /= 2;
    }
}

fn try_without(groups: &[Vec<usize>], kept: &mut Vec<bool>, still: &mut dyn FnMut(&[bool]) -> bool) -> bool {
    let mut candidate = kept.clone();
    for &unit in groups.iter().flatten() {
        candidate[unit] = false;
    }
    let goes = candidate != *kept && still(&candidate);
    if goes {
        *kept = candidate;
    }
    goes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_of(count: usize, needed: impl Fn(&[bool]) -> bool) -> (Vec<usize>, u32) {
        let (mut kept, mut judged) = (vec![true; count], 0);
        let mut still = |candidate: &[bool]| {
            judged += 1;
            needed(candidate)
        };
        reduce((0..count).map(|unit| vec![unit]).collect(), &mut kept, &mut still);
        (kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(unit, _)| unit).collect(), judged)
    }

    #[test]
    fn what_is_needed_stays_and_nothing_else_and_few_questions_are_asked() {
        let (left, judged) = left_of(10_000, |kept| kept[17] && kept[4_000] && kept[9_999]);
        assert_eq!(left, [17, 4_000, 9_999]);
        assert!(judged < 150, "{judged}");
        assert_eq!(left_of(1, |_| true).0, Vec::<usize>::new());
        assert_eq!(left_of(0, |_| true).0, Vec::<usize>::new());
        assert_eq!(left_of(7, |kept| kept.iter().all(|kept| *kept)).0.len(), 7);
    }

    #[test]
    fn what_can_go_only_together_goes_when_a_window_holds_it() {
        let pair = |kept: &[bool]| kept[0] && kept[1] == kept[2];
        let (left, _) = left_of(5, pair);
        assert_eq!(left, [0, 1, 2], "one by one neither can go");
        let mut kept = vec![true, true, true, false, false];
        windows(&[vec![0], vec![1], vec![2], vec![3]], &mut kept, &mut |candidate| pair(candidate));
        assert_eq!(kept, [true, false, false, false, false]);
    }
}

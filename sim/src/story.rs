//! The story of a world: a line for everything that happens, and one hash over all of them.
//!
//! The hash is what a run is compared by: two runs of one seed must tell the same story to the last byte.

use std::{
    fmt::{self, Write as _},
    io,
};

/// Tells the story.
pub struct Story {
    hash: u64,
    lines: u64,
    line: String,
    listener: Option<Box<dyn io::Write>>,
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Story").field("hash", &self.hash).field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl Story {
    /// A story that nobody listens to; only its hash is kept.
    #[must_use]
    pub const fn untold() -> Self {
        // FNV-1a's offset basis.
        Self { hash: 0xCBF2_9CE4_8422_2325, lines: 0, line: String::new(), listener: None }
    }

    /// A story that is written down.
    #[must_use]
    pub fn told_to(listener: impl io::Write + 'static) -> Self {
        Self { listener: Some(Box::new(listener)), ..Self::untold() }
    }

    /// Tells a line.
    pub fn tell(&mut self, at_us: u64, what: fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a string does not fail.
        let _ = writeln!(self.line, "{:>5}.{:06} {what}", at_us / 1_000_000, at_us % 1_000_000);
        self.lines += 1;
        self.hash = hash_on(self.hash, self.line.as_bytes());
        if let Some(listener) = &mut self.listener
            && listener.write_all(self.line.as_bytes()).is_err()
        {
            // Whoever listened has gone (a closed pipe); the run goes on.
            self.listener = None;
        }
    }

    /// The hash of all lines so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines were told.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.lines
    }
}

/// FNV-1a, but eight bytes at a time: nearly every line is only hashed.
fn hash_on(hash: u64, line: &[u8]) -> u64 {
    let step = |hash: u64, bytes: u64| (hash.rotate_left(5) ^ bytes).wrapping_mul(0x100_0000_01B3);
    let (words, rest) = line.as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| step(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| step(hash, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_lines() {
        let tell = |lines: &[(u64, &str)]| {
            let mut story = Story::untold();
            lines.iter().for_each(|(at, line)| story.tell(*at, format_args!("{line}")));
            story.hash()
        };
        assert_eq!(tell(&[(1, "a"), (2, "b")]), tell(&[(1, "a"), (2, "b")]));
        assert_ne!(tell(&[(1, "a"), (2, "b")]), tell(&[(2, "b"), (1, "a")]));
        assert_ne!(tell(&[(1, "a")]), tell(&[(2, "a")]));
        assert_ne!(tell(&[]), tell(&[(0, "")]));
        // Wherever a byte stands, it counts.
        let line = "n1 > n2 g3 append";
        let hash = tell(&[(1, line)]);
        for at in 0..line.len() {
            let mut other = line.to_owned();
            other.replace_range(at..=at, "x");
            assert_ne!(hash, tell(&[(1, &other)]), "{other}");
        }
    }
}

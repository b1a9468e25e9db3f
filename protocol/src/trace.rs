//! Traces: which requests are followed across processes, and what is told of them.
//!
//! A [`TraceContext`] is W3C's `traceparent`: it comes with a request, or is made for one in so many. Whoever works on a
//! followed request makes [`Span`]s once it is done (a stage begins in one thread and ends in another, so there is
//! no "current" span), and gives them to a [`SpanSink`], which a program fills with an exporter. A request that is not
//! followed costs a look at an `Option`, or, where requests are picked, one number.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

/// A place in a trace: `traceparent`, as `https://www.w3.org/TR/trace-context/` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span that what follows is a part of; not 0.
    pub span_id: u64,
    /// Whether whoever began the trace wants it recorded.
    pub sampled: bool,
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// The text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: it must be like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct NoTraceContext;

impl FromStr for TraceContext {
    type Err = NoTraceContext;

    fn from_str(text: &str) -> Result<Self, NoTraceContext> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_hex = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            u128::from_str_radix(part, 16).ok().filter(|_| is_hex)
        };
        let (version, trace_id) = (hex(2).ok_or(NoTraceContext)?, hex(32).ok_or(NoTraceContext)?);
        let (span_id, flags) = (hex(16).ok_or(NoTraceContext)?, hex(2).ok_or(NoTraceContext)?);
        // A later version may have more behind it; this one has not.
        let rest = parts.next().is_some();
        let span_id = u64::try_from(span_id).map_err(|_| NoTraceContext)?;
        if version == 0xff || (version == 0 && rest) || trace_id == 0 || span_id == 0 {
            return Err(NoTraceContext);
        }
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// What a span is in the talk of two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// It asks another process.
    Client,
    /// It answers one.
    Server,
    /// It is a part of another span.
    Internal,
}

/// What is told with a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanValue {
    /// A number.
    Number(u64),
    /// Words.
    Text(String),
}

impl From<u64> for SpanValue {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for SpanValue {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<String> for SpanValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A stage of a request that is over.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place.
    pub context: TraceContext,
    /// The span that it is a part of, if it is not the first of its trace.
    pub parent: Option<u64>,
    /// Its name: the same for all stages of this kind.
    pub name: &'static str,
    /// Its part in the talk of processes.
    pub kind: SpanKind,
    /// When it began.
    pub begun: Instant,
    /// When it was over.
    pub ended: Instant,
    /// More about it.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Where spans go. Must not wait: what cannot be taken is dropped.
pub trait SpanSink: Send + Sync {
    /// Takes a span.
    fn take(&self, span: Span);
}

/// So many of a million requests are all.
pub const PER_MILLION: u32 = 1_000_000;

/// Picks the requests that are followed, gives spans their ids, and hands them on.
pub struct Tracer {
    sink: Arc<dyn SpanSink>,
    per_million: AtomicU32,
    /// The state of SplitMix64.
    state: AtomicU64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("per_million", &self.per_million).finish_non_exhaustive()
    }
}

impl Tracer {
    /// Follows so many of a million requests that bring no trace of their own. The seed must be another one in every
    /// process.
    #[must_use]
    pub fn new(sink: Arc<dyn SpanSink>, per_million: u32, seed: u64) -> Self {
        Self { sink, per_million: AtomicU32::new(per_million), state: AtomicU64::new(seed) }
    }

    /// Follows so many from now on.
    pub fn set_per_million(&self, per_million: u32) {
        self.per_million.store(per_million, Ordering::Relaxed);
    }

    /// Begins to follow a request, if it is to be: one that came with a trace as whoever began that wants it, of the
    /// others so many of a million.
    pub fn follow(self: &Arc<Self>, parent: Option<TraceContext>) -> Option<Followed> {
        let is_picked = match parent {
            Some(parent) => parent.sampled,
            None => match self.per_million.load(Ordering::Relaxed) {
                0 => false,
                per_million => self.number() % u64::from(PER_MILLION) < u64::from(per_million),
            },
        };
        is_picked.then(|| self.begin(parent))
    }

    /// Begins to follow a request in any case.
    #[must_use]
    pub fn begin(self: &Arc<Self>, parent: Option<TraceContext>) -> Followed {
        let trace_id = parent.map_or_else(|| self.trace_id(), |parent| parent.trace_id);
        let context = TraceContext { trace_id, span_id: self.span_id(), sampled: true };
        Followed { tracer: Arc::clone(self), context, parent: parent.map(|parent| parent.span_id) }
    }

    fn trace_id(&self) -> u128 {
        (u128::from(self.number()) << 64 | u128::from(self.number())).max(1)
    }

    fn span_id(&self) -> u64 {
        self.number().max(1)
    }

    fn number(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut number = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

/// A request that is followed: its own span, which stages are parts of.
#[derive(Clone, Debug)]
pub struct Followed {
    tracer: Arc<Tracer>,
    context: TraceContext,
    parent: Option<u64>,
}

impl Followed {
    /// Its place, for whoever is asked in its course.
    #[must_use]
    pub const fn context(&self) -> TraceContext {
        self.context
    }

    /// Tells of a stage that is over.
    pub fn stage(
        &self,
        name: &'static str,
        begun: Instant,
        ended: Instant,
        attributes: Vec<(&'static str, SpanValue)>,
    ) {
        let context = TraceContext { span_id: self.tracer.span_id(), ..self.context };
        let (parent, kind) = (Some(self.context.span_id), SpanKind::Internal);
        self.tracer.sink.take(Span { context, parent, name, kind, begun, ended, attributes, error: None });
    }

    /// Tells of the request as a whole.
    pub fn end(
        self,
        (name, kind): (&'static str, SpanKind),
        begun: Instant,
        ended: Instant,
        attributes: Vec<(&'static str, SpanValue)>,
        error: Option<String>,
    ) {
        let Self { tracer, context, parent } = self;
        tracer.sink.take(Span { context, parent, name, kind, begun, ended, attributes, error });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn take(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    #[test]
    fn a_traceparent_is_what_w3c_says() {
        let context: TraceContext = TEXT.parse().unwrap();
        assert_eq!((context.trace_id >> 112, context.span_id & 0xff, context.sampled), (0x4bf9, 0xb7, true));
        assert_eq!(context.to_string(), TEXT);
        assert!(!TEXT.replace("-01", "-00").parse::<TraceContext>().unwrap().sampled);
        // A later version may say more.
        assert_eq!(TEXT.replacen("00-", "cc-", 1).parse(), Ok(context));
        assert_eq!(format!("{}-what", TEXT.replacen("00-", "cc-", 1)).parse(), Ok(context));
        for wrong in [
            String::new(),
            TEXT.to_uppercase(),
            TEXT.replacen("00-", "ff-", 1),
            format!("{TEXT}-what"),
            TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            TEXT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            TEXT.replace("-01", "-+1"),
            TEXT.replace("b7-", "-"),
            TEXT.replace('4', "é"),
        ] {
            assert_eq!(wrong.parse::<TraceContext>(), Err(NoTraceContext), "{wrong}");
        }
    }

    #[test]
    fn who_brings_a_trace_decides_and_of_the_others_some_are_picked() {
        let tracer = Arc::new(Tracer::new(Arc::new(Kept::default()), 0, 7));
        let parent: TraceContext = TEXT.parse().unwrap();
        assert!(tracer.follow(None).is_none());
        let followed = tracer.follow(Some(parent)).unwrap();
        assert_eq!(followed.context().trace_id, parent.trace_id);
        assert_ne!(followed.context().span_id, parent.span_id);
        tracer.set_per_million(PER_MILLION);
        assert!(tracer.follow(None).is_some());
        assert!(tracer.follow(Some(TraceContext { sampled: false, ..parent })).is_none());
        tracer.set_per_million(250_000);
        let picked = (0..10_000).filter(|_| tracer.follow(None).is_some()).count();
        assert!((2_200..2_800).contains(&picked), "{picked} of 10,000 are no quarter");
    }

    #[test]
    fn stages_are_parts_of_their_request() {
        let kept = Arc::new(Kept::default());
        let tracer = Arc::new(Tracer::new(Arc::clone(&kept) as Arc<dyn SpanSink>, 0, 7));
        let followed = tracer.begin(Some(TEXT.parse().unwrap()));
        let now = Instant::now();
        followed.stage("part", now, now, vec![("bytes", 5_u64.into())]);
        let whole = followed.context();
        followed.end(("whole", SpanKind::Server), now, now, vec![], Some("why".to_owned()));
        let spans = kept.0.lock().unwrap();
        let [part, end] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((part.parent, end.parent), (Some(whole.span_id), Some(0x00f0_67aa_0ba9_02b7)));
        assert_eq!((part.context.trace_id, end.context), (whole.trace_id, whole));
        assert_ne!(part.context.span_id, whole.span_id);
    }
}

//! Spans to an OpenTelemetry collector. The one place that knows OpenTelemetry: everything else gives its spans to
//! `levada_protocol::trace::SpanSink`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use levada_broker::config::ServerConfig;
use levada_client::ClientConfig;
use levada_protocol::trace::{PER_MILLION, Span, SpanKind, SpanSink, SpanValue, TraceContext, Tracer};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{SpanContext, SpanKind as OtelKind, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter as _, SpanLinks, SpanProcessor as _,
    },
};

use crate::exit;

/// Spans of so long are sent together.
const SENT_EVERY: Duration = Duration::from_secs(1);
/// OpenTelemetry's own variable.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Gathers spans and sends them, on a thread of its own. What it has no place for it drops, as it does what the collector
/// does not take in time.
#[derive(Debug)]
pub(crate) struct Exporter {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Exporter {
    /// To `http://host:port` of a collector's OTLP receiver over gRPC. Must be called within a runtime.
    ///
    /// # Errors
    /// The endpoint is none.
    pub(crate) fn new(endpoint: &str, about: Vec<(&'static str, String)>) -> Result<Arc<Self>> {
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .with_context(|| format!("spans cannot be sent to {endpoint:?}"))?;
        let about = about.into_iter().map(|(key, value)| KeyValue::new(key, value));
        exporter.set_resource(&Resource::builder_empty().with_service_name("levada").with_attributes(about).build());
        let scope = InstrumentationScope::builder("levada").with_version(env!("CARGO_PKG_VERSION")).build();
        let together = BatchConfigBuilder::default().with_scheduled_delay(SENT_EVERY).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(together).build();
        Ok(Arc::new(Self { processor, scope }))
    }

    /// Sends what there is, and waits for that.
    pub(crate) async fn finish(self: Arc<Self>) {
        // It waits for the runtime, which must not wait for it.
        let sent = tokio::task::spawn_blocking(move || self.processor.shutdown()).await;
        if let Ok(Err(error)) = sent {
            tracing::warn!(%error, "telemetry.lost");
        }
    }
}

impl SpanSink for Exporter {
    fn take(&self, span: Span) {
        let Span { context: TraceContext { trace_id, span_id, .. }, parent, .. } = span;
        let at = clock();
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from(trace_id),
                SpanId::from(span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: span.kind == SpanKind::Server && parent.is_some(),
            span_kind: match span.kind {
                SpanKind::Client => OtelKind::Client,
                SpanKind::Server => OtelKind::Server,
                SpanKind::Internal => OtelKind::Internal,
            },
            name: span.name.into(),
            start_time: at(span.begun),
            end_time: at(span.ended),
            attributes: span.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value_of(value))).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// From this process's clock to everybody's.
fn clock() -> impl Fn(Instant) -> SystemTime {
    let (here, there) = (Instant::now(), SystemTime::now());
    move |instant| match instant.checked_duration_since(here) {
        Some(ahead) => there + ahead,
        None => there.checked_sub(here.duration_since(instant)).unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

fn value_of(value: SpanValue) -> Value {
    match value {
        SpanValue::Number(number) => Value::I64(i64::try_from(number).unwrap_or(i64::MAX)),
        SpanValue::Text(text) => Value::String(text.into()),
    }
}

/// What a server follows, and where that goes; nothing without `tracing.otlp_endpoint`.
pub(crate) fn of_server(config: &ServerConfig) -> Result<Option<(Arc<Tracer>, Arc<Exporter>)>> {
    let settings = &config.tracing;
    if settings.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    let about = vec![
        ("service.instance.id", config.node_id.to_string()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let exporter = Exporter::new(&settings.otlp_endpoint, about)
        .map_err(|error| exit::usage(format!("tracing.otlp_endpoint: {error:#}")))?;
    Ok(Some((tracer(&exporter, settings.samples_per_million), exporter)))
}

/// The trace that whoever started this command wants it to be a part of.
pub(crate) fn parent() -> Option<TraceContext> {
    std::env::var("TRACEPARENT").ok()?.parse().ok()
}

/// Has a client's requests followed, if `OTEL_EXPORTER_OTLP_ENDPOINT` says where that is told.
pub(crate) fn of_client(config: &mut ClientConfig) -> Result<Option<Arc<Exporter>>> {
    let Some(endpoint) = std::env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty()) else { return Ok(None) };
    let exporter = Exporter::new(&endpoint, vec![("service.version", env!("CARGO_PKG_VERSION").to_owned())])
        .map_err(|error| exit::usage(format!("{ENDPOINT}: {error:#}")))?;
    config.tracing.tracer = Some(tracer(&exporter, PER_MILLION));
    Ok(Some(exporter))
}

/// Follows so many of a million requests.
pub(crate) fn tracer(exporter: &Arc<Exporter>, per_million: u32) -> Arc<Tracer> {
    let seed = uuid::Uuid::new_v4().as_u64_pair();
    Arc::new(Tracer::new(Arc::clone(exporter) as Arc<dyn SpanSink>, per_million, seed.0 ^ seed.1))
}

//! Who asks, and for how long: carried by every call through every seam.

use std::{sync::Arc, time::Instant};

use crate::{
    error::{Error, ErrorCode, Result},
    trace::TraceContext,
};

/// Who makes a request, once authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// Nobody in particular: what a connection is before it authenticates.
    #[must_use]
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// A named user or service.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// What every call carries besides its arguments.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks.
    pub principal: Principal,
    /// The name the client gave itself; for logs and metrics, never for decisions.
    pub client: Arc<str>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The trace that the request came with.
    pub trace: Option<TraceContext>,
}

impl RequestContext {
    /// A context for work that no client asked for.
    #[must_use]
    pub fn internal(what: &str) -> Self {
        Self { principal: Principal::named("levada"), client: what.into(), deadline: None, trace: None }
    }

    /// A context for a client that has not authenticated.
    #[must_use]
    pub fn anonymous(client: &str) -> Self {
        Self { principal: Principal::anonymous(), client: client.into(), deadline: None, trace: None }
    }

    /// The same with a deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// What a principal wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// See that it exists, and its settings.
    Describe,
    /// Read records.
    Read,
    /// Write records.
    Write,
    /// Create it.
    Create,
    /// Change its settings.
    Alter,
    /// Delete it.
    Delete,
}

/// To what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    /// The cluster as a whole.
    Cluster,
    /// A topic, by name.
    Topic(&'a str),
    /// A consumer group, by name.
    Group(&'a str),
}

/// Decides what a principal may do. Asked at every door, again at every use of a ticket.
pub trait Authorizer: Send + Sync {
    /// # Errors
    /// [`ErrorCode::Unauthorized`] with words that name principal, action and resource.
    fn authorize(&self, ctx: &RequestContext, action: Action, resource: Resource<'_>) -> Result<()>;
}

/// Lets everybody do everything. The only authorizer so far, which is why a server binds to loopback unless told
/// otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, _ctx: &RequestContext, _action: Action, _resource: Resource<'_>) -> Result<()> {
        Ok(())
    }
}

/// The error of a refusal.
#[must_use]
pub fn refused(ctx: &RequestContext, action: Action, resource: Resource<'_>) -> Error {
    Error::new(
        ErrorCode::Unauthorized,
        format!("{} may not {action:?} {resource:?}; ask an administrator to grant it", ctx.principal.name()),
    )
}

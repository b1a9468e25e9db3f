//! Limits that may change while they are used.

use std::sync::{Arc, PoisonError, RwLock};

use super::LimitsConfig;

/// The limits in force. Whoever uses one looks here each time.
#[derive(Debug)]
pub struct LiveLimits(RwLock<Arc<LimitsConfig>>);

impl LiveLimits {
    /// These, for now.
    #[must_use]
    pub fn new(limits: LimitsConfig) -> Self {
        Self(RwLock::new(Arc::new(limits)))
    }

    /// As they are at this moment.
    #[must_use]
    pub fn get(&self) -> Arc<LimitsConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these.
    pub fn set(&self, limits: LimitsConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }
}

//! The fault harness: a cluster of real processes on real sockets and disks, clients that note what they were told, faults that
//! prove that they bit, and checkers that say whether what happened may be.
//!
//! Everything happens inside the [`sandbox`], or where there can be none in the hands of a [`keeper`], so that nothing is left of
//! it, whatever happens. On a [`stage`] of nodes, networks, disks and clocks, a [`workload`] has clients work and the [`nemesis`]
//! threads strike; the [`recorder`] writes down what clients did and heard. A [`run`] is all of it, its [`results`] are shown by
//! the [`report`], its [`seed`] plays it again, and [`shrink`] leaves of it what shows what is wrong. What must be true is said
//! in `levada-checkers`, which knows nothing of any of this.

pub mod control;
mod endings;
pub mod keeper;
pub mod nemesis;
pub mod net;
pub mod recorder;
pub mod report;
pub mod results;
pub mod run;
pub mod sandbox;
pub mod seed;
pub mod serve;
pub mod shell;
pub mod shrink;
pub mod stage;
pub mod suite;
pub mod workload;

//! The fault harness: a cluster of real processes on real sockets and disks, clients that note what they were told, faults that
//! prove that they bit, and checkers that say whether what happened may be.

pub mod report;
pub mod results;

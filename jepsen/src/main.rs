//! `jepsen`: attacks a cluster, and judges it.

fn main() {}

//! Nothing yet: the fault harness (real processes, nemeses, checkers, a report) comes with its own capability.

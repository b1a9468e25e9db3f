//! The whole store on a simulated disk: its power is cut at every operation, its bits flip, it fills up and breaks.

mod arrival;
mod backlog;
mod blank;
mod crash;
mod damage;
mod failure;
mod full;
mod model;
mod needed;
mod reclaiming;
mod renewal;
mod replacing;
mod world;

//! Worlds: scenarios, regressions, and the simulator's own promises.

mod every_call;
mod operations;
mod scenarios;

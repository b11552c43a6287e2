//! Worlds: scenarios, regressions, and the simulator's own promises.

mod basics;

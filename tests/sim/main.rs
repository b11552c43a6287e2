//! Worlds: scenarios, regressions, lists of operations, and the simulator's own promises.

// With the planted bug everything else may fail, and should.
#[cfg(feature = "canary")]
mod canary;
#[cfg(not(feature = "canary"))]
mod distribute;
#[cfg(not(feature = "canary"))]
mod every_call;
#[cfg(not(feature = "canary"))]
mod evil;
#[cfg(not(feature = "canary"))]
mod log;
#[cfg(not(feature = "canary"))]
mod observe;
#[cfg(not(feature = "canary"))]
mod operations;
mod protocol;
#[cfg(not(feature = "canary"))]
mod regressions;
#[cfg(not(feature = "canary"))]
mod scenarios;
#[cfg(not(feature = "canary"))]
mod spans;

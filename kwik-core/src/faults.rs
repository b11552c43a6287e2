//! Strategies of a client against a secondary that breaks a rule, or whose bytes are wrong. Spec: PROTOCOL §10.
//!
//! Whatever is chosen, a byte outside a lease is never placed, every fault is counted, and what cannot be read on (a
//! control stream that makes no sense) ends its path.

/// Strategy for an internal stream that a secondary opens for a range it may not fill, or fills already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingFaults {
    /// Close its path. An honest server never does that, and one that breaks this rule would break others.
    #[default]
    Isolate,
    /// Stop that stream, and hold it against the server.
    Refuse,
    /// Stop that stream and end the lease it was for, so that the primary gives the range again
    /// ([`NewLease::retries`](crate::NewLease::retries)), and hold it against the server.
    Retry,
}

/// Strategy for bytes that a digest, or the primary's own bytes, show to be wrong, and for a hole that nobody fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AggregationFaults {
    /// End the lease, so that the primary gives the range to somebody else, and hold it against the server. A reader is
    /// told of a hole once per gap timeout, and reads on should the bytes come after all.
    #[default]
    ReLease,
    /// Nothing but count: what was wrong is not placed, or what the conflict policy says.
    Ignore,
    /// Give the stream up: its reader gets the error.
    CloseStream,
    /// Close the path of the server whose bytes were wrong.
    Isolate,
}

/// Strategy for a secondary's stream that does not begin with a header, or with one that its sender may not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetadataFaults {
    /// Close its path. An honest server never does that.
    #[default]
    Isolate,
    /// Stop that stream, and hold it against the server.
    StopStream,
}

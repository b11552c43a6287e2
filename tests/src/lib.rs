//! End-to-end tests of KWIK over real sockets, and measurements beside its peers.

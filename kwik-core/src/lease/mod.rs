//! Who may write what: tickets, seals, and the keys behind them.

pub(crate) mod ticket;

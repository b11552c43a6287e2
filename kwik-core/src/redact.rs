//! Bytes that a log never shows: tickets, nonces and payloads. It is told how long they are.

use std::fmt;

/// Bytes that are nobody's to read in a log.
pub(crate) struct Redacted<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Writes `Debug` for a struct as the derive would, but for the fields behind the semicolon, whose length alone is shown.
/// All fields are named, so that none is added unnoticed.
macro_rules! debug_hiding {
    ($name:ident { $($shown:ident),*; $($hidden:ident),* }) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let Self { $($shown,)* $($hidden,)* } = self;
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($shown), $shown))*
                    $(.field(stringify!($hidden), &$crate::redact::Redacted($hidden)))*
                    .finish()
            }
        }
    };
}

pub(crate) use debug_hiding;

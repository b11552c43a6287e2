//! Programs as quinn's users write them, each one source, compiled twice: it is the `use` alone that differs. Both must
//! say the same. Spec: DESIGN §3, kwik-core/QUINN.md.

use std::{future::Future, time::Duration};

use kwik_tests::run;

type Said = Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>>;

macro_rules! programs {
    ($($name:ident: $file:literal;)*) => {$(
        mod $name {
            mod on_quinn {
                use quinn as transport;
                include!($file);
            }

            mod on_kwik {
                use kwik_tokio as transport;
                include!($file);
            }

            #[test]
            fn says_the_same() {
                super::compare(on_quinn::program(), on_kwik::program());
            }
        }
    )*};
}

programs! {
    echo: "echo.rs";
    requests: "requests.rs";
    datagrams: "datagrams.rs";
    resets: "resets.rs";
    shutdown: "shutdown.rs";
    listener: "listener.rs";
    streams: "streams.rs";
    inspect: "inspect.rs";
}

/// Runs both, and compares what they say, which must be something.
fn compare(
    quinn: impl Future<Output = Said> + Send + 'static,
    kwik: impl Future<Output = Said> + Send + 'static,
) {
    run(async {
        let mut said = Vec::new();
        for (on, program) in [("quinn", tokio::spawn(quinn)), ("KWIK", tokio::spawn(kwik))] {
            let lines = tokio::time::timeout(Duration::from_secs(60), program).await;
            said.push(
                lines
                    .unwrap_or_else(|_| panic!("stuck on {on}"))
                    .unwrap()
                    .unwrap_or_else(|e| panic!("{on}: {e}")),
            );
        }
        assert!(!said[0].is_empty());
        assert_eq!(said[0], said[1], "quinn's on the left");
    });
}

//! Programs as quinn's users write them, each one source, compiled for each library and runtime: it is the `use` alone that
//! differs. All must say the same. Spec: DESIGN §3, kwik-core/QUINN.md.

use std::{future::Future, pin::Pin, time::Duration};

use kwik_tests::run;

type Said = Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>>;

/// Program on its way, and where it runs.
type Running = (&'static str, Pin<Box<dyn Future<Output = Option<Said>> + Send>>);

/// What programs ask of their executor, by tokio's names.
macro_rules! executor {
    ($name:ident, $host:expr) => {
        mod $name {
            use std::future::Future;

            use kwik_tests::host::Host as _;
            use tokio::sync::oneshot;

            pub(super) mod time {
                pub(in super::super) use async_std::future::timeout;
            }

            pub(super) fn spawn<T: Send + 'static>(
                task: impl Future<Output = T> + Send + 'static,
            ) -> oneshot::Receiver<T> {
                let (tell, told) = oneshot::channel();
                $host.spawn(async move { drop(tell.send(task.await)) });
                told
            }
        }
    };
}

executor!(async_std_executor, kwik_tests::host::AsyncStd);
executor!(smol_executor, kwik_tests::host::Smol);

/// Programs that name no runtime.
macro_rules! programs {
    ($($name:ident: $file:literal;)*) => {$(
        mod $name {
            mod on_quinn {
                use {quinn as transport, tokio as executor};
                include!($file);
            }

            mod on_tokio {
                use {kwik_tokio as transport, tokio as executor};
                include!($file);
            }

            mod on_async_std {
                use {super::super::async_std_executor as executor, kwik_async_std as transport};
                include!($file);
            }

            mod on_smol {
                use {super::super::{smol_executor as executor, smol_transport as transport}};
                include!($file);
            }

            #[test]
            fn says_the_same() {
                super::compare(|| vec![
                    super::on_tokio("quinn", on_quinn::program()),
                    super::on_tokio("tokio", on_tokio::program()),
                    super::spawned("async-std", super::async_std_executor::spawn(on_async_std::program())),
                    super::spawned("smol", super::smol_executor::spawn(on_smol::program())),
                ]);
            }
        }
    )*};
}

/// As a program's `use` of `kwik_async_std` and of its module `smol` has it.
mod smol_transport {
    pub(super) use kwik_async_std::{
        smol::{Endpoint, default_runtime},
        *,
    };
}

programs! {
    echo: "echo.rs";
    requests: "requests.rs";
    datagrams: "datagrams.rs";
    resets: "resets.rs";
    shutdown: "shutdown.rs";
    listener: "listener.rs";
    inspect: "inspect.rs";
}

/// With tokio's IO traits.
mod streams {
    mod on_quinn {
        use quinn as transport;
        include!("streams.rs");
    }

    mod on_tokio {
        use kwik_tokio as transport;
        include!("streams.rs");
    }

    #[test]
    fn says_the_same() {
        super::compare(|| {
            vec![super::on_tokio("quinn", on_quinn::program()), super::on_tokio("tokio", on_tokio::program())]
        });
    }
}

/// Of the crate `h3`.
mod h3 {
    mod on_quinn {
        use h3_quinn as h3_transport;
        include!("h3.rs");
    }

    mod on_tokio {
        use kwik_tokio::h3 as h3_transport;
        include!("h3.rs");
    }

    #[test]
    fn says_the_same() {
        super::compare(|| {
            vec![super::on_tokio("quinn", on_quinn::program()), super::on_tokio("tokio", on_tokio::program())]
        });
    }
}

fn on_tokio(on: &'static str, program: impl Future<Output = Said> + Send + 'static) -> Running {
    spawned(on, tokio::spawn(program))
}

fn spawned<E>(on: &'static str, program: impl Future<Output = Result<Said, E>> + Send + 'static) -> Running {
    (on, Box::pin(async move { program.await.ok() }))
}

/// Runs all of them, and compares what they say, which must be something.
fn compare(start: impl FnOnce() -> Vec<Running>) {
    run(async {
        let mut first: Option<Vec<String>> = None;
        for (on, program) in start() {
            let said = tokio::time::timeout(Duration::from_secs(60), program)
                .await
                .unwrap_or_else(|_| panic!("stuck on {on}"))
                .unwrap_or_else(|| panic!("panicked on {on}"))
                .unwrap_or_else(|e| panic!("{on}: {e}"));
            assert!(!said.is_empty());
            assert_eq!(
                *first.get_or_insert_with(|| said.clone()),
                said,
                "quinn's on the left, {on} on the right"
            );
        }
    });
}

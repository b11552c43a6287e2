//! Worlds told by lists of operations: drawn and shrunk here, and those that once failed.

use kwik_tests::sim::operations::{ops, run, settings};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{FileFailurePersistence, RngSeed},
};

proptest! {
    // What fails is written down below with a name; a file of seeds would say less and rot.
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        max_shrink_iters: 2000,
        // The same lists each time; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` try others.
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_done_to_a_world_it_comes_to_an_end(setting in settings(2), ops in vec(ops(2), 1..25)) {
        run(&setting, &ops);
    }
}

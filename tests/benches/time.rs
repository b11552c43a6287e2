//! Cost of the core's parts, in time: `cargo bench -p kwik-tests --features bench --bench time`.
//!
//! A shared machine changes its pace while this runs: compare two versions by turns, or count instructions instead
//! (`--bench instructions`).

use std::time::Duration;

use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for mut body in kwik_core::bench::bodies() {
        let mut group = criterion.benchmark_group(body.group());
        group.throughput(Throughput::Elements(body.units()));
        let case = body.case().to_owned();
        group.bench_function(case, |bencher| bencher.iter(|| body.run()));
        group.finish();
    }
    criterion.final_summary();
}

//! Reports of what comes of leases, as the client sends them to whoever has asked. Spec: PROTOCOL §7.28.

use std::time::Duration;

use super::Primary;
use crate::{
    action::{Event, ReaderStatus},
    budget::{Bucket, Rate},
    error::PeerFault,
    id::StreamId,
    limits,
    session::action::Action,
    wire::ProgressReport,
};

/// The client's reports of one path.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// A lease of it was given of which the client is to report.
    pub(super) asked: bool,
    pub(super) rtt: Option<Duration>,
    pub(super) late: u64,
    pub(super) overlap: u64,
    /// Reports that pay for themselves, since the first one.
    paid: Option<Bucket>,
}

impl Primary {
    pub(super) fn on_progress(&mut self, report: &ProgressReport) -> Result<(), PeerFault> {
        if report.path > self.last_path {
            return Err(PeerFault::ReportPath);
        }
        if report.leases.is_empty() && report.readers.is_empty() {
            return Err(PeerFault::ReportEmpty);
        }
        for &(id, bytes) in &report.leases {
            if id.into_inner() >= self.next_lease {
                return Err(PeerFault::LeaseUnknown);
            }
            let Some(lease) = self.leases.get_mut(id) else {
                continue; // over, as its path may be
            };
            let Some(arrived) = lease.state.arrived else {
                return Err(PeerFault::ReportUnasked);
            };
            if bytes <= arrived || bytes > lease.range().len() || lease.path() != report.path {
                return Err(PeerFault::ReportFalls);
            }
            lease.state.arrived = Some(bytes);
        }
        for (stream, reader) in &report.readers {
            let Some(split) = self.streams.get(stream) else {
                continue;
            };
            if reader.position < split.base() || reader.position > split.claimed_end() {
                return Err(PeerFault::ReportReader);
            }
            self.readers.insert(*stream, *reader);
        }
        let Some(path) = self.paths.get_mut(&report.path) else {
            self.late_frames += 1;
            return Ok(());
        };
        let progress = &mut path.progress;
        if !progress.asked {
            return Err(PeerFault::ReportUnasked);
        }
        if report.late < progress.late || report.overlap < progress.overlap {
            return Err(PeerFault::ReportFalls);
        }
        progress.rtt = report.rtt_us.map(Duration::from_micros).or(progress.rtt);
        (progress.late, progress.overlap) = (report.late, report.overlap);
        let paid = progress.paid.get_or_insert_with(|| {
            Bucket::new(self.now, Rate::per_second(limits::PROGRESS_RATE), limits::PROGRESS_BURST)
        });
        if paid.take(self.now, 1).is_ok() {
            self.account.earn(1);
        }
        self.reports += 1;
        self.actions.push_back(Action::Notify(Event::Progress(report.path)));
        Ok(())
    }

    /// Number of reports that came.
    pub(in crate::session) fn reports(&self) -> u64 {
        self.reports
    }

    /// The reader of a stream as the client last told of it.
    pub(in crate::session) fn reader(&self, stream: StreamId) -> Option<ReaderStatus> {
        self.readers.get(&stream).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;
    use crate::{
        id::{ByteRange, PublicKey, SpkiHash},
        lease::ticket::SigningKey,
        rng::Rng,
        session::{NewJob, NewLease, NewPath},
        wire::{Features, Frame},
    };

    /// A client that does not know of reports is given its leases as ever.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn only_a_client_that_can_report_is_asked_to() {
        for (features, asked) in
            [(Features::OFFERED, true), (Features(Features::OFFERED.0 & !Features::PROGRESS.0), false)]
        {
            let signer = Arc::new(SigningKey::from_seed([1; 32]));
            let (rng, client_key) = (Rng::from_seed([2; 32]), PublicKey::new([3; 32]));
            let mut primary = Primary::new(Instant::now(), signer, rng, client_key, features, 8, 8);
            let address = "192.0.2.1:4433".parse().unwrap();
            let path = primary.add_path(NewPath::new(address, "a.test", SpkiHash::new([4; 32]))).unwrap();
            let range = ByteRange::new(0, 100).unwrap();
            let stream = StreamId::from_u64(3).unwrap();
            let job = primary.open_job(stream, 0, NewJob::new(path, range, "")).unwrap();
            primary.lease(&NewLease::new(job, range).progress()).unwrap();
            let granted = std::iter::from_fn(|| primary.poll_action()).find_map(|action| {
                let Action::Send { frame: Frame::LeaseGrant(grant), .. } = action else {
                    return None;
                };
                Some(grant.progress)
            });
            assert_eq!(granted, Some(asked));
        }
    }
}

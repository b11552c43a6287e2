//! The rules that a peer can break, each with its code and its words. Spec: PROTOCOL §1.6, §10.

use std::fmt;

use super::{ErrorCode, FrameError};
use crate::lease::{nonces::NonceError, ticket::TicketError};

macro_rules! faults {
    ($($(#[doc = $more:literal])* $name:ident: $code:ident, $text:literal;)*) => {
        /// A rule that a peer broke: what it did, in words of this end alone.
        ///
        /// Several rules share a code; the peer is told the code, with the words where they give nothing away, and the
        /// logs and [`SessionStats::faults`](crate::SessionStats::faults) name the rule. Spec: PROTOCOL §10.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum PeerFault {
            $(
                #[doc = concat!("It ", $text, ".")]
                $(#[doc = $more])*
                $name,
            )*
        }

        impl PeerFault {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the code that says which kind of rule it was.
            pub const fn code(self) -> ErrorCode {
                match self {
                    $(Self::$name => ErrorCode::$code,)*
                }
            }

            /// Returns what the peer did, as a phrase that goes on from who it is.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

faults! {
    // The connection and its first words.
    NotKwik: VERSION, "speaks QUIC and not KWIK";
    ControlNotPermitted: METADATA_PROTOCOL_VIOLATION, "permits no control stream";
    ControlEnded: METADATA_PROTOCOL_VIOLATION, "ended the control stream";
    ControlStopped: METADATA_PROTOCOL_VIOLATION, "stopped the control stream";
    ControlUnread: EXCESSIVE_LOAD, "leaves too much of the control stream unread";
    SignaturesUnpaid: EXCESSIVE_LOAD, "makes too much wait for signatures";
    HelloLate: AUTH_TIMEOUT, "sent no hello in time";
    HelloAgain: FRAME_UNEXPECTED, "sent something else than one hello";
    HelloVersion: VERSION, "sent the hello of another version";
    ProtocolNotOffered: VERSION, "chose an application protocol that was not offered";
    ProtocolUnknown: VERSION, "offers no application protocol that is spoken here";
    RoleNotServed: INVALID_STREAM_ROLE, "asks for a role that is not served here";
    WrongSession: AUTH_FAILED, "greets in another session's name";
    WrongIdentity: AUTH_FAILED, "has none of the keys that its path was named with";
    NoExporter: AUTH_FAILED, "has a connection that no proof can be bound to";
    ProofWrong: AUTH_FAILED, "does not prove the key that its ticket names";
    TicketAudience: AUTH_FAILED, "shows a ticket for another server";
    TicketClientKey: AUTH_FAILED, "shows a ticket for another client";
    TicketExpired: TICKET_EXPIRED, "shows a ticket that is past its time";
    TicketLifetime: AUTH_FAILED, "shows a ticket with a life that none may have";
    TicketMalformed: AUTH_FAILED, "shows a ticket that is none";
    TicketNotYetValid: CLOCK_SKEW, "shows a ticket that is not valid yet";
    TicketPath: AUTH_FAILED, "shows a ticket for another path";
    TicketReplayed: AUTH_FAILED, "shows a ticket that was shown before";
    TicketSession: AUTH_FAILED, "shows a ticket for another session";
    TicketUntrusted: AUTH_FAILED, "shows a ticket that no trusted primary has signed";
    TicketsTooMany: EXCESSIVE_LOAD, "comes while too many tickets of its primary are remembered";

    // Frames and headers, whatever they say.
    FrameField: INVALID_FRAME, "sent a frame with a field missing or out of range";
    FrameMalformed: INVALID_FRAME, "sent a frame that does not decode";
    FrameRange: OFFSET_OVERFLOW, "sent a range that is empty or beyond the largest offset";
    FrameTooLarge: FRAME_TOO_LARGE, "sent a frame longer than its cap";
    FrameTooMany: LIMIT_EXCEEDED, "sent a frame with more entries than it may have";
    FrameUnexpected: FRAME_UNEXPECTED, "sent a frame that its role or the state does not allow";
    FrameUnknown: INVALID_FRAME, "sent a frame that must be understood and is not";

    // Paths and jobs.
    PathNotNew: METADATA_PROTOCOL_VIOLATION, "named a path that is not the next one";
    JobNotNew: METADATA_PROTOCOL_VIOLATION, "opened a job that is not the next one";
    JobOfPrimary: METADATA_PROTOCOL_VIOLATION, "opened a job for the primary's own path";
    JobOfOther: METADATA_PROTOCOL_VIOLATION, "answered a job of another path";
    JobsForged: AUTH_FAILED, "brought too many jobs that its primary has not sealed";

    // Leases as they are given, noticed, cut and answered.
    GrantNotNew: FRAME_UNEXPECTED, "granted a lease that is not the next one";
    GrantOutsideJob: LEASE_VIOLATION, "granted a lease outside its job or longer than any may be";
    GrantBeforeSplit: LEASE_VIOLATION, "granted a lease before the offset of the split";
    GrantPastFinal: FINAL_SIZE, "granted a lease beyond the end of its stream";
    NoticeNotNew: METADATA_PROTOCOL_VIOLATION, "noticed a lease that is not the next one";
    NoticeOfNoJob: FRAME_UNEXPECTED, "noticed a lease of a job that it never opened";
    CutOfVerified: METADATA_PROTOCOL_VIOLATION, "cut a lease that has a digest";
    CutUnsupported: METADATA_PROTOCOL_VIOLATION, "cut a lease and knows no answer to that";
    CutUnasked: METADATA_PROTOCOL_VIOLATION, "cut a lease unasked, or not from its start on";
    LeaseUnknown: METADATA_PROTOCOL_VIOLATION, "answered a lease that was never granted";
    LeaseOutside: METADATA_PROTOCOL_VIOLATION, "told of bytes outside the lease that it named";
    LeaseOfOther: LEASE_VIOLATION, "used a lease that it was not given";
    LeaseOffset: LEASE_VIOLATION, "began a lease elsewhere than at its start";
    LeaseTwice: STREAM_MAPPING_CONFLICT, "opened a second stream for one lease";
    ReportEmpty: METADATA_PROTOCOL_VIOLATION, "reported on nothing";
    ReportFalls: METADATA_PROTOCOL_VIOLATION, "reported counts that fall, or are more than can be";
    ReportPath: METADATA_PROTOCOL_VIOLATION, "reported on a path that was never named";
    ReportUnasked: METADATA_PROTOCOL_VIOLATION, "reported on a path that it was not asked about";
    ReportReader: METADATA_PROTOCOL_VIOLATION, "reported a reader where nothing was written";

    // Streams and their bytes.
    StreamOfSecondary: INVALID_STREAM_ROLE, "opened an application's stream on a path that has none";
    StreamToServer: INVALID_STREAM_ROLE, "opened a stream of the servers' own towards one";
    StreamOfOther: INVALID_STREAM_ROLE, "opened a stream that only a server of the other kind opens";
    SplitTwice: METADATA_PROTOCOL_VIOLATION, "split a stream twice";
    SplitControl: METADATA_PROTOCOL_VIOLATION, "split the control stream";
    SplitNotPermitted: METADATA_PROTOCOL_VIOLATION, "split a stream that it may not open";
    SplitTooFar: OFFSET_OVERFLOW, "split a stream where no byte can follow";
    SplitTooLate: METADATA_PROTOCOL_VIOLATION, "split a stream before what it had sent of it";
    NativeEnded: FINAL_SIZE, "ended a stream before the offset of its split";
    NativePastSplit: METADATA_PROTOCOL_VIOLATION, "sent a stream on behind the offset of its split";
    FinalOfUnsplit: FRAME_UNEXPECTED, "told the end of a stream that is not split";
    FinalChanged: FINAL_SIZE, "told an end of a stream that contradicts what it said of it";
    SyncOfUnsplit: FRAME_UNEXPECTED, "asked for what has come of a stream that is not split";
    SyncUnasked: METADATA_PROTOCOL_VIOLATION, "told what has come of a stream unasked";
    SyncUntrue: OFFSET_SYNC_FAILURE, "told of bytes that nobody was given to bring, or not in order";
    SyncEndless: OFFSET_SYNC_FAILURE, "told of more pieces than it may have";
    SplitAckUnasked: FRAME_UNEXPECTED, "acknowledged a split that was not asked for";
    CompleteTooSoon: FRAME_UNEXPECTED, "called a stream complete of which the end was not told";
    RunBeforeSplit: LEASE_VIOLATION, "wrote before the offset of the split";
    RunPastFinal: FINAL_SIZE, "wrote beyond the end of a stream";
    RunTooFar: OFFSET_OVERFLOW, "wrote beyond the largest offset";
    RunPastCredit: FLOW_CONTROL, "wrote more than it had credit for";
    RunScattered: LIMIT_EXCEEDED, "wrote more disjoint pieces than may be held";
    BytesPastLease: LEASE_VIOLATION, "sent bytes outside its lease";
    BytesPastCredit: SECONDARY_STREAM_OVERFLOW, "sent more of its lease than it had credit for";
    WrongDigest: DIGEST_MISMATCH, "sent bytes that do not have the digest of their lease";
    Conflict: DATA_CONFLICT, "sent other bytes than a server that is believed";
    GapUnfilled: AGGREGATION_TIMEOUT, "let a reader wait for bytes that nobody was given to bring";

    // Messages between servers.
    RelayTooSoon: FRAME_UNEXPECTED, "sent a message before it was attached";
    RelayOfStranger: INVALID_STREAM_ROLE, "sent a message before its hello";
    RelayToNobody: PATH_NOT_FOUND, "sent a message for a path that was never named";
    RelayOfOther: RELAY_REFUSED, "sent a message in another server's name";
    RelayUnsealed: RELAY_REFUSED, "sent a message without the primary's seal";
    RelayLength: METADATA_PROTOCOL_VIOLATION, "sent a message that is not as long as it says";
}

impl PeerFault {
    /// Returns the words that go with the code in `CONNECTION_CLOSE`. Who fails to prove who it is learns no more than that.
    pub(crate) fn told(self) -> &'static str {
        if self.code() == ErrorCode::AUTH_FAILED { "" } else { self.text() }
    }
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the peer {}", self.code(), self.text())
    }
}

impl From<FrameError> for PeerFault {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Field => Self::FrameField,
            FrameError::Malformed => Self::FrameMalformed,
            FrameError::Range => Self::FrameRange,
            FrameError::TooLarge => Self::FrameTooLarge,
            FrameError::TooMany => Self::FrameTooMany,
            FrameError::UnknownMandatory => Self::FrameUnknown,
        }
    }
}

impl From<TicketError> for PeerFault {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::Audience => Self::TicketAudience,
            TicketError::ClientKey => Self::TicketClientKey,
            TicketError::Expired { .. } => Self::TicketExpired,
            TicketError::Lifetime => Self::TicketLifetime,
            TicketError::Malformed => Self::TicketMalformed,
            TicketError::NotYetValid { .. } => Self::TicketNotYetValid,
            TicketError::Path => Self::TicketPath,
            TicketError::Session => Self::TicketSession,
            TicketError::Untrusted => Self::TicketUntrusted,
        }
    }
}

impl From<NonceError> for PeerFault {
    fn from(error: NonceError) -> Self {
        match error {
            NonceError::Full => Self::TicketsTooMany,
            NonceError::Replayed => Self::TicketReplayed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::limits::REASON_MAX;

    #[test]
    fn each_rule_has_words_of_its_own_that_fit_a_close() {
        let texts: BTreeSet<&str> = PeerFault::ALL.iter().map(|fault| fault.text()).collect();
        assert_eq!(texts.len(), PeerFault::ALL.len());
        assert!(texts.iter().all(|text| text.len() <= REASON_MAX && text.is_ascii()));
        assert!(PeerFault::ALL.iter().all(|fault| fault.code().name().is_some()));
    }

    #[test]
    fn who_fails_to_prove_who_it_is_learns_no_more() {
        let told: BTreeSet<&str> = PeerFault::ALL
            .iter()
            .filter(|fault| fault.code() == ErrorCode::AUTH_FAILED)
            .map(|fault| fault.told())
            .collect();
        assert_eq!(told, BTreeSet::from([""]));
    }

    #[test]
    fn displayed_as_code_and_words() {
        let shown = PeerFault::RunPastCredit.to_string();
        assert_eq!(shown, "FLOW_CONTROL: the peer wrote more than it had credit for");
    }
}

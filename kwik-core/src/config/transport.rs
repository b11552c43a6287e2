//! Settings of a session's connections and split streams, and the rules by which they go together.

use std::{sync::Arc, time::Duration};

use super::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, QuicSettings};
use crate::{
    error::{ConfigError, VarInt},
    faults::{AggregationFaults, MappingFaults, MetadataFaults},
    id::Dir,
    limits,
    quic::congestion::ControllerFactory,
    stream::conflict::ConflictPolicy,
};

/// Settings of a session, for either end.
///
/// The setters take the value in the unit their name ends in, or bytes for windows. They take any value: whether all of
/// them together can be used is what [`Self::check`] says, and so do the calls that begin to use them, which fail rather
/// than use others. Spec: RATIONALE §11.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub(crate) idle_timeout: Duration,
    pub(crate) hello_timeout: Duration,
    pub(crate) attach_timeout: Duration,
    pub(crate) gap_timeout: Duration,
    pub(crate) conflict_policy: ConflictPolicy,
    pub(crate) mapping_faults: MappingFaults,
    pub(crate) aggregation_faults: AggregationFaults,
    pub(crate) metadata_faults: MetadataFaults,
    pub(crate) fault_score_max: u32,
    pub(crate) keep_alive_interval: Option<Duration>,
    pub(crate) initial_rtt: Option<Duration>,
    pub(crate) mtu_max: u16,
    pub(crate) stream_receive_window: u32,
    pub(crate) send_window: u64,
    pub(crate) stream_window: u64,
    pub(crate) session_window: u64,
    pub(crate) streams_start: Option<u64>,
    pub(crate) streams_max: Option<u64>,
    pub(crate) receive_window: u64,
    pub(crate) datagram_receive_buffer: Option<usize>,
    pub(crate) datagram_send_buffer: usize,
    pub(crate) secondary_paths_max: usize,
    /// Streams that the application permits the peer, no more and no fewer.
    pub(crate) bidi_streams: Option<u64>,
    pub(crate) uni_streams: Option<u64>,
    pub(crate) quic: QuicSettings,
    #[cfg(feature = "qlog")]
    pub(crate) qlog: Option<crate::quic::Qlog>,
}

/// quinn's default for both datagram buffers.
const DATAGRAM_BUFFER: usize = 1024 * 1024;
/// RFC 9000 §14: what every path must carry.
pub(super) const MTU_MIN: u16 = 1200;
/// Room of a UDP datagram over IPv4, less than what quinn-proto takes.
pub(super) const MTU_CEILING: u16 = 65_527;
const IDLE_MIN: Duration = Duration::from_secs(1);
const INITIAL_RTT_CEILING: Duration = Duration::from_secs(60);
/// Ethernet without IP and UDP headers and with room for common tunnels: where quinn's discovery stops too.
pub(super) const MTU_MAX: u16 = 1452;

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            idle_timeout: limits::IDLE_TIMEOUT,
            hello_timeout: limits::HELLO_TIMEOUT,
            attach_timeout: limits::ATTACH_TIMEOUT,
            gap_timeout: limits::GAP_TIMEOUT,
            conflict_policy: ConflictPolicy::default(),
            mapping_faults: MappingFaults::default(),
            aggregation_faults: AggregationFaults::default(),
            metadata_faults: MetadataFaults::default(),
            fault_score_max: limits::FAULT_SCORE_MAX,
            keep_alive_interval: None,
            initial_rtt: None,
            mtu_max: MTU_MAX,
            stream_receive_window: limits::QUIC_STREAM_WINDOW,
            send_window: limits::QUIC_SEND_WINDOW,
            stream_window: limits::STREAM_WINDOW,
            session_window: limits::SESSION_WINDOW,
            streams_start: None,
            streams_max: None,
            receive_window: limits::NATIVE_MEMORY,
            datagram_receive_buffer: Some(DATAGRAM_BUFFER),
            datagram_send_buffer: DATAGRAM_BUFFER,
            secondary_paths_max: limits::SECONDARY_PATHS_MAX,
            bidi_streams: None,
            uni_streams: None,
            quic: QuicSettings::default(),
            #[cfg(feature = "qlog")]
            qlog: None,
        }
    }
}

/// Settings of QUIC's, by quinn's names; those that KWIK has of its own come after.
impl TransportConfig {
    /// Bidirectional streams of the peer that may be open at once: so many from the start, and no more later; 0 to 1,048,576, as
    /// far as [`Self::receive_window`] has room for them. By default the number grows with use; see [`Self::streams_start`] and
    /// [`Self::streams_max`], which it takes the place of.
    pub fn max_concurrent_bidi_streams(&mut self, value: VarInt) -> &mut Self {
        self.bidi_streams = Some(value.into_inner());
        self
    }

    /// Unidirectional streams of the peer that may be open at once: by default, and otherwise, as
    /// [`Self::max_concurrent_bidi_streams`]. KWIK's own do not count.
    pub fn max_concurrent_uni_streams(&mut self, value: VarInt) -> &mut Self {
        self.uni_streams = Some(value.into_inner());
        self
    }

    /// Time after which a silent connection is dead: 30 s by default, 1 s to an hour. `None` is an hour: a path that may be
    /// silent for ever would hold its leases for ever. A shorter one lets go of dead clients sooner, and of clients that are
    /// away for a moment as well. The shorter one of the two ends counts.
    pub fn max_idle_timeout(&mut self, value: Option<IdleTimeout>) -> &mut Self {
        self.idle_timeout = value.and_then(IdleTimeout::duration).unwrap_or(limits::IDLE_CEILING);
        self
    }

    /// Sends what streams of the same priority have in turns, by default (`true`), or stream by stream: for many short ones, of
    /// which each is of use only when it is whole.
    pub fn send_fairness(&mut self, value: bool) -> &mut Self {
        self.quic.send_fairness = Some(value);
        self
    }

    /// Packets that may overtake one before it counts as lost: 3 by default, and no less (RFC 9002 §6.1.1). More for networks
    /// that send packets of one connection different ways.
    pub fn packet_threshold(&mut self, value: u32) -> &mut Self {
        self.quic.packet_threshold = Some(value);
        self
    }

    /// Round trips that a packet may be late before it counts as lost: 9/8 by default, 1 to 16 (RFC 9002 §6.1.2).
    pub fn time_threshold(&mut self, value: f32) -> &mut Self {
        self.quic.time_threshold = Some(value);
        self
    }

    /// UDP payload to begin with, before MTU discovery has an answer, in bytes: 1,200 by default, 1,200 to 65,527. More only
    /// where every path is known to carry it: no handshake is made over one that does not.
    pub fn initial_mtu(&mut self, value: u16) -> &mut Self {
        self.quic.initial_mtu = Some(value);
        self
    }

    /// UDP payload that every path is known to carry, in bytes: 1,200 by default, 1,200 to 65,527. It is what is left when
    /// larger packets get lost.
    pub fn min_mtu(&mut self, value: u16) -> &mut Self {
        self.quic.min_mtu = Some(value);
        self
    }

    /// Search for the largest UDP payload that a path carries, in place of [`Self::mtu_max`]; by default
    /// [`MtuDiscoveryConfig::default`]. `None` turns it off: packets stay as long as [`Self::initial_mtu`].
    pub fn mtu_discovery_config(&mut self, value: Option<MtuDiscoveryConfig>) -> &mut Self {
        self.quic.mtu_discovery_config = Some(value);
        self
    }

    /// Makes every datagram with application data as long as the path carries; `false` by default. Hides how long messages are,
    /// for the bytes that it takes.
    pub fn pad_to_mtu(&mut self, value: bool) -> &mut Self {
        self.quic.pad_to_mtu = Some(value);
        self
    }

    /// Frequency of acknowledgements that peers are asked for, if they know how; `None` by default, which leaves it to them.
    pub fn ack_frequency_config(&mut self, value: Option<AckFrequencyConfig>) -> &mut Self {
        self.quic.ack_frequency_config = value;
        self
    }

    /// Probe timeouts in a row that mean persistent congestion: 3 by default, 1 to 1,000 (RFC 9002 §7.6.1).
    pub fn persistent_congestion_threshold(&mut self, value: u32) -> &mut Self {
        self.quic.persistent_congestion_threshold = Some(value);
        self
    }

    /// Bytes of the handshake that may wait out of order: 16 KiB by default, 4 KiB to 16 MiB. More for certificate chains that
    /// are longer than that.
    pub fn crypto_buffer_size(&mut self, value: usize) -> &mut Self {
        self.quic.crypto_buffer_size = Some(value);
        self
    }

    /// Lets observers see round trips by the spin bit (RFC 9000 §17.4); `true` by default. `false` to tell them nothing.
    pub fn allow_spin(&mut self, value: bool) -> &mut Self {
        self.quic.allow_spin = Some(value);
        self
    }

    /// Bytes of received application datagrams kept for the application: 1 MiB by default. Older ones give way to newer ones;
    /// `None` refuses datagrams.
    pub fn datagram_receive_buffer_size(&mut self, value: Option<usize>) -> &mut Self {
        self.datagram_receive_buffer = value;
        self
    }

    /// Bytes of application datagrams waiting to be sent: 1 MiB by default. Less, where a datagram that has waited is of no use.
    pub fn datagram_send_buffer_size(&mut self, value: usize) -> &mut Self {
        self.datagram_send_buffer = value;
        self
    }

    /// Congestion control of each connection: CUBIC by default. [`congestion`](crate::congestion) has others; BBR for paths that
    /// lose packets without being full.
    pub fn congestion_controller_factory(
        &mut self,
        factory: Arc<dyn ControllerFactory + Send + Sync + 'static>,
    ) -> &mut Self {
        self.quic.congestion_controller_factory = Some(factory);
        self
    }

    /// Lets one system call send several datagrams, where the system can; `true` by default. `false` for network cards that get
    /// it wrong: it costs half the throughput.
    pub fn enable_segmentation_offload(&mut self, enabled: bool) -> &mut Self {
        self.quic.enable_segmentation_offload = Some(enabled);
        self
    }
}

impl TransportConfig {
    /// Time after which a silent connection is dead: 30 s by default, 1 s to an hour; as [`Self::max_idle_timeout`].
    #[must_use]
    pub fn idle_timeout(mut self, value: Duration) -> Self {
        self.idle_timeout = value;
        self
    }

    /// Time that a client has for handshake and hello on a server: 10 s by default, 10 ms to a day. How long a client that says
    /// nothing holds its place among those that are half-open.
    #[must_use]
    pub fn hello_timeout(mut self, value: Duration) -> Self {
        self.hello_timeout = value;
        self
    }

    /// Time that a client tries to attach a path for, from `AddPath` on: 2.5 s by default, 10 ms to a day. More for servers
    /// that are more than some round trips of half a second away.
    #[must_use]
    pub fn attach_timeout(mut self, value: Duration) -> Self {
        self.attach_timeout = value;
        self
    }

    /// Time after which a reader is told of bytes that, as the primary says, nobody is to bring: 10 s by default, 10 ms to a day.
    /// More for primaries that wait for other servers to come.
    #[must_use]
    pub fn gap_timeout(mut self, value: Duration) -> Self {
        self.gap_timeout = value;
        self
    }

    /// The source that wins when two servers send different bytes for one offset of a split stream: by default the one that came
    /// first.
    #[must_use]
    pub fn conflict_policy(mut self, value: ConflictPolicy) -> Self {
        self.conflict_policy = value;
        self
    }

    /// A client's answer to a secondary that opens a stream for what it may not fill: by default it closes the path.
    #[must_use]
    pub fn mapping_faults(mut self, value: MappingFaults) -> Self {
        self.mapping_faults = value;
        self
    }

    /// A client's answer to wrong bytes of a secondary, and to holes that nobody fills: by default the range is given to others,
    /// and the reader told.
    #[must_use]
    pub fn aggregation_faults(mut self, value: AggregationFaults) -> Self {
        self.aggregation_faults = value;
        self
    }

    /// A client's answer to a secondary's stream that does not begin with a header that makes sense: by default it closes the
    /// path.
    #[must_use]
    pub fn metadata_faults(mut self, value: MetadataFaults) -> Self {
        self.metadata_faults = value;
        self
    }

    /// Closes a secondary's path once it has so much against it, 8 by default and at least 1: 4 for bytes that the primary's own or its digest have
    /// shown to be wrong, 1 for any other fault that was let pass; each lease that is done takes 1 off.
    /// Spec: PROTOCOL §10.
    #[must_use]
    pub fn fault_score_max(mut self, value: u32) -> Self {
        self.fault_score_max = value;
        self
    }

    /// Interval of keep-alives on the primary path: `None` by default, 10 ms to an hour. With `None` they are sent only while
    /// leases live or streams are open, and then at most every third of the idle timeout once nothing comes for long. For
    /// sessions that must outlive a silence, or whose networks forget them sooner than they do. Spec: PROTOCOL §8.
    pub fn keep_alive_interval(&mut self, value: Option<Duration>) -> &mut Self {
        self.keep_alive_interval = value;
        self
    }

    /// Round-trip time assumed before the first sample: 333 ms by default, more than nothing, at most a minute. Less, where it
    /// is known to be, has lost first packets sent again sooner.
    pub fn initial_rtt(&mut self, value: Duration) -> &mut Self {
        self.initial_rtt = Some(value);
        self
    }

    /// Upper end of path MTU discovery, in bytes of UDP payload: 1,452 by default, 1,200 to 65,527; as
    /// [`MtuDiscoveryConfig::upper_bound`].
    #[must_use]
    pub fn mtu_max(mut self, value: u16) -> Self {
        self.mtu_max = value;
        self
    }

    /// QUIC's receive window per stream, in bytes: 2 MiB by default, 64 KiB to 1 GiB. Three of them at least must fit
    /// [`Self::receive_window`]. More for streams that are to be faster than 2 MiB each round trip; but above 2 MiB loss alone may
    /// close a connection. Spec: RATIONALE §11.
    pub fn stream_receive_window(&mut self, value: VarInt) -> &mut Self {
        self.stream_receive_window = u32::try_from(value.into_inner()).unwrap_or(u32::MAX);
        self
    }

    /// Bytes that native streams of one connection may hold unread, all together: 768 MiB by default, at least 1.
    ///
    /// That is what a peer can have this end keep whose application accepts streams and does not read them. QUIC's own
    /// window of the connection is never larger by more than control, messages, and the streams that QUIC permits early.
    /// It is never what blocks: it is as large as all streams' windows together, and it is the number of streams that is
    /// held down to fit; see [`Self::streams_max`]. Spec: PROTOCOL §4.
    pub fn receive_window(&mut self, value: VarInt) -> &mut Self {
        self.receive_window = value.into_inner();
        self
    }

    /// Bytes that QUIC keeps for retransmission per connection: 8 MiB by default, 64 KiB to 2^48. More for connections that are
    /// to be faster than 8 MiB each round trip.
    pub fn send_window(&mut self, value: u64) -> &mut Self {
        self.send_window = value;
        self
    }

    /// Receive window of a split stream at its start, in bytes: 4 MiB by default, 64 KiB to 2^48. It grows by itself, as far as
    /// [`Self::session_window`] has room, if the reader is fast, and to twice the length of a verified lease. Where the session
    /// window has less room from the start, so much less it is.
    #[must_use]
    pub fn stream_window(mut self, value: u64) -> Self {
        self.stream_window = value;
        self
    }

    /// Sum of the receive windows of all split streams of a session, in bytes: 64 MiB by default, 128 KiB to 2^48. It bounds what
    /// a client keeps for readers that are slow, and with it how fast all servers together may be in a round trip.
    #[must_use]
    pub fn session_window(mut self, value: u64) -> Self {
        self.session_window = value;
        self
    }

    /// Streams the peer may have open at once, per direction, at the start: 64 on a client and 16 on a server by default, or
    /// fewer if no more may be open ever; 1 to [`Self::streams_max`], up to which the number grows with use. More for peers that
    /// open very many at once; each that is permitted costs memory before it is opened.
    #[must_use]
    pub fn streams_start(mut self, value: u64) -> Self {
        self.streams_start = Some(value);
        self
    }

    /// Streams the peer may have open at once, per direction, once grown: 128 by default, 1 to 1,048,576.
    ///
    /// By default it is as many as can be left unread without holding more than [`Self::receive_window`], and at most 1,024: a
    /// third of it divided by [`Self::stream_receive_window`], which is 128. (The peer opens streams in both directions, and on
    /// as many bidirectional ones of our own it sends as well.) More are asked for together with the memory they may
    /// take, or a smaller window for each. How often a peer had all it may have is
    /// [`SessionStats::streams_exhausted`](crate::SessionStats::streams_exhausted).
    #[must_use]
    pub fn streams_max(mut self, value: u64) -> Self {
        self.streams_max = Some(value);
        self
    }

    /// Bytes of received application datagrams kept for the application: 1 MiB by default; as
    /// [`Self::datagram_receive_buffer_size`].
    #[must_use]
    pub fn datagram_receive_buffer(mut self, value: Option<usize>) -> Self {
        self.datagram_receive_buffer = value;
        self
    }

    /// Bytes of application datagrams waiting to be sent: 1 MiB by default; as [`Self::datagram_send_buffer_size`].
    #[must_use]
    pub fn datagram_send_buffer(mut self, value: usize) -> Self {
        self.datagram_send_buffer = value;
        self
    }

    /// Secondary paths alive at once in a session: 8 by default, 0 to 64. A client that sets 0 goes without other servers.
    #[must_use]
    pub fn secondary_paths_max(mut self, value: usize) -> Self {
        self.secondary_paths_max = value;
        self
    }

    /// Returns whether these settings can be used, each by itself and all together.
    ///
    /// # Errors
    /// - [`ConfigError::OutOfRange`] with the name of the first setting that is outside its range.
    /// - [`ConfigError::StreamsBeyondWindow`] if `streams_start` or `streams_max` does not fit `receive_window`.
    pub fn check(&self) -> Result<(), ConfigError> {
        use limits::{IDLE_CEILING, WAIT_CEILING, WAIT_MIN, WINDOW_CEILING};
        let in_range = [
            ("idle_timeout", (IDLE_MIN..=IDLE_CEILING).contains(&self.idle_timeout)),
            ("hello_timeout", (WAIT_MIN..=WAIT_CEILING).contains(&self.hello_timeout)),
            ("attach_timeout", (WAIT_MIN..=WAIT_CEILING).contains(&self.attach_timeout)),
            ("gap_timeout", (WAIT_MIN..=WAIT_CEILING).contains(&self.gap_timeout)),
            ("fault_score_max", self.fault_score_max > 0),
            (
                "keep_alive_interval",
                self.keep_alive_interval.is_none_or(|value| (WAIT_MIN..=IDLE_CEILING).contains(&value)),
            ),
            (
                "initial_rtt",
                self.initial_rtt.is_none_or(|value| !value.is_zero() && value <= INITIAL_RTT_CEILING),
            ),
            ("mtu_max", (MTU_MIN..=MTU_CEILING).contains(&self.mtu_max)),
            ("receive_window", self.receive_window > 0),
            (
                "stream_receive_window",
                (limits::QUIC_STREAM_WINDOW_MIN..=limits::QUIC_STREAM_WINDOW_CEILING)
                    .contains(&self.stream_receive_window)
                    && self.streams_fit() > 0,
            ),
            ("send_window", (limits::QUIC_SEND_WINDOW_MIN..=WINDOW_CEILING).contains(&self.send_window)),
            ("stream_window", (limits::GUARANTEED_CREDIT..=WINDOW_CEILING).contains(&self.stream_window)),
            (
                "session_window",
                (2 * limits::GUARANTEED_CREDIT..=WINDOW_CEILING).contains(&self.session_window),
            ),
            ("secondary_paths_max", self.secondary_paths_max <= limits::DEAD_PATHS_LISTED),
        ];
        if let Some((name, _)) = in_range.iter().find(|(_, right)| !right) {
            return Err(ConfigError::OutOfRange(name));
        }
        self.quic.check()?;
        for (name, streams) in [
            ("max_concurrent_bidi_streams", self.bidi_streams),
            ("max_concurrent_uni_streams", self.uni_streams),
        ] {
            if let Some(streams) = streams.filter(|streams| *streams > 0) {
                self.check_streams(name, streams, limits::STREAMS_CEILING)?;
            }
        }
        if let Some(streams) = self.streams_max {
            self.check_streams("streams_max", streams, limits::STREAMS_CEILING)?;
        }
        if let Some(streams) = self.streams_start {
            self.check_streams(
                "streams_start",
                streams,
                self.streams_max.unwrap_or(limits::STREAMS_CEILING),
            )?;
        }
        Ok(())
    }

    fn check_streams(&self, name: &'static str, streams: u64, most: u64) -> Result<(), ConfigError> {
        if !(1..=most).contains(&streams) {
            return Err(ConfigError::OutOfRange(name));
        }
        if streams > self.streams_fit() {
            let (stream_receive_window, receive_window) = (self.stream_receive_window, self.receive_window);
            let needed = streams.saturating_mul(3).saturating_mul(stream_receive_window.into());
            return Err(ConfigError::StreamsBeyondWindow {
                streams,
                stream_receive_window,
                needed,
                receive_window,
            });
        }
        Ok(())
    }

    /// Streams per direction that can all be left unread: those the peer opens in two directions, and as many
    /// bidirectional ones of our own.
    fn streams_fit(&self) -> u64 {
        self.receive_window / u64::from(self.stream_receive_window).max(1) / 3
    }

    /// Streams that the peer may open in `dir` when `count` per direction are permitted: an application may have named another
    /// number for one of them.
    pub(crate) fn streams(&self, dir: Dir, count: u64) -> u64 {
        let named = match dir {
            Dir::Bi => self.bidi_streams,
            Dir::Uni => self.uni_streams,
        };
        named.unwrap_or(count)
    }

    /// The greatest of the two numbers of streams, for windows that let all of them fill.
    pub(crate) fn streams_either(&self, count: u64) -> u64 {
        self.streams(Dir::Bi, count).max(self.streams(Dir::Uni, count))
    }

    /// Streams per direction that are permitted at most.
    pub(crate) fn streams_most(&self) -> u64 {
        self.streams_max.unwrap_or(limits::STREAMS_MAX).min(self.streams_fit()).max(1)
    }

    /// Bytes of datagrams that may wait for a session's task: what its windows let honest peers have under way.
    /// Spec: RATIONALE §11.
    #[cfg(feature = "driver")]
    pub(crate) fn receive_max(&self, client: bool) -> usize {
        let native = limits::NATIVE_WINDOWS_UNDER_WAY.saturating_mul(self.stream_receive_window.into());
        let mut windows = native.saturating_add(limits::CONTROL_WINDOW);
        if client {
            let control = (limits::CONTROL_WINDOW + limits::RELAY_WINDOW)
                .saturating_mul(self.secondary_paths_max as u64);
            windows = windows.saturating_add(self.session_window).saturating_add(control);
        }
        // Half as much again: packets' own headers, what takes a datagram's place in memory, and what is sent twice.
        usize::try_from(windows.saturating_add(windows / 2)).unwrap_or(usize::MAX)
    }

    /// Writes what happens on every connection made with this configuration from now on, and in its session if
    /// [`Qlog::sessions`](crate::Qlog::sessions) says where (feature `qlog`). Nothing is written by default.
    #[cfg(feature = "qlog")]
    #[must_use]
    pub fn qlog(mut self, value: crate::Qlog) -> Self {
        self.qlog = Some(value);
        self
    }

    /// Split streams that can be guaranteed credit at once: at most half the session window is set aside for it.
    pub(crate) fn split_streams_max(&self) -> u32 {
        let fit = self.session_window / 2 / limits::GUARANTEED_CREDIT;
        u32::try_from(fit.min(limits::SPLIT_STREAMS_MAX as u64)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ClientConfig, ServerConfig},
        quic::native_streams,
    };

    type Change = fn(TransportConfig) -> TransportConfig;

    /// quinn permits 100 streams; here memory stood before that, without a word. Spec: RATIONALE §11.
    #[test]
    fn by_default_more_streams_are_permitted_than_by_quinn() {
        let config = TransportConfig::default();
        assert_eq!(config.check(), Ok(()));
        let (streams, window) = native_streams(&config, u64::MAX);
        assert_eq!(streams, 128);
        assert_eq!(window, limits::NATIVE_MEMORY + limits::CONTROL_WINDOW);
    }

    /// A setting is taken as it is, or is an error that says what else to ask for.
    #[test]
    fn streams_beyond_what_their_memory_allows_are_an_error() {
        let mut config = TransportConfig::default().streams_max(5000);
        let needed = 5000 * 3 * u64::from(limits::QUIC_STREAM_WINDOW);
        assert_eq!(
            config.check(),
            Err(ConfigError::StreamsBeyondWindow {
                streams: 5000,
                stream_receive_window: limits::QUIC_STREAM_WINDOW,
                needed,
                receive_window: limits::NATIVE_MEMORY,
            })
        );
        let small = config
            .clone()
            .stream_receive_window((64u32 * 1024).into())
            .receive_window((1u32 << 30).into())
            .clone();
        for config in [config.receive_window(needed.try_into().unwrap()).clone(), small] {
            assert_eq!(config.check(), Ok(()));
            assert_eq!(native_streams(&config, u64::MAX).0, 5000);
        }
        let start = TransportConfig::default().streams_start(129).check();
        assert!(matches!(start, Err(ConfigError::StreamsBeyondWindow { streams: 129, .. })), "{start:?}");
        let start = TransportConfig::default().streams_max(10).streams_start(11).check();
        assert_eq!(start, Err(ConfigError::OutOfRange("streams_start")));
    }

    /// Each was a silent clamp, a panic, or a connection that could do nothing.
    #[test]
    fn what_is_out_of_range_is_an_error_that_names_it() {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let changes: [(&str, Change); 24] = [
            ("idle_timeout", |c| c.idle_timeout(Duration::from_millis(999))),
            ("idle_timeout", |c| c.idle_timeout(Duration::from_secs(3601))),
            ("hello_timeout", |c| c.hello_timeout(Duration::ZERO)),
            ("hello_timeout", |c| c.hello_timeout(Duration::MAX)),
            ("attach_timeout", |c| c.attach_timeout(Duration::ZERO)),
            ("attach_timeout", |c| c.attach_timeout(Duration::MAX)),
            ("gap_timeout", |c| c.gap_timeout(Duration::from_millis(9))),
            ("gap_timeout", |c| c.gap_timeout(2 * DAY)),
            ("fault_score_max", |c| c.fault_score_max(0)),
            ("keep_alive_interval", |mut c| c.keep_alive_interval(Some(Duration::ZERO)).clone()),
            ("keep_alive_interval", |mut c| c.keep_alive_interval(Some(DAY)).clone()),
            ("initial_rtt", |mut c| c.initial_rtt(Duration::ZERO).clone()),
            ("initial_rtt", |mut c| c.initial_rtt(DAY).clone()),
            ("mtu_max", |c| c.mtu_max(1199)),
            ("mtu_max", |c| c.mtu_max(u16::MAX)),
            ("receive_window", |mut c| c.receive_window(VarInt::from_u32(0)).clone()),
            ("stream_receive_window", |mut c| c.stream_receive_window(VarInt::from_u32(0)).clone()),
            ("stream_receive_window", |mut c| c.stream_receive_window(VarInt::from_u32(512 << 20)).clone()),
            ("send_window", |mut c| c.send_window(0).clone()),
            ("stream_window", |c| c.stream_window(limits::GUARANTEED_CREDIT - 1)),
            ("session_window", |c| c.session_window(2 * limits::GUARANTEED_CREDIT - 1)),
            ("session_window", |c| c.session_window(u64::MAX)),
            ("streams_start", |c| c.streams_start(0)),
            ("streams_max", |c| c.streams_max(0)),
        ];
        for (name, change) in changes {
            assert_eq!(change(TransportConfig::default()).check(), Err(ConfigError::OutOfRange(name)));
        }
        assert_eq!(
            TransportConfig::default().secondary_paths_max(65).check(),
            Err(ConfigError::OutOfRange("secondary_paths_max"))
        );
    }

    /// Nobody begins to use what is impossible.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn impossible_settings_are_refused_where_they_would_be_used() {
        use crate::{endpoint::Endpoint, error::ConnectError, session::tests::Authority};
        let now = std::time::Instant::now();
        let authority = Authority::new();
        let impossible = TransportConfig::default().streams_max(0);
        let why = ConfigError::OutOfRange("streams_max");
        let endpoint = |server| Endpoint::new([1; 32], now, server, true);
        let server = || ServerConfig::try_from(authority.server("a.test").0).unwrap();
        assert_eq!(endpoint(Some(server().transport(impossible.clone()))).err(), Some(why.clone()));
        let servers = [
            ("accepts_max", server().accepts_max(0)),
            ("half_open_max", server().half_open_max(0)),
            ("half_open_max", server().half_open_max(limits::HALF_OPEN_CEILING + 1)),
            ("half_open_per_prefix", server().half_open_per_prefix(0)),
            ("half_open_per_prefix", server().half_open_per_prefix(limits::HALF_OPEN_CEILING + 1)),
            ("backlog_max", server().backlog_max(limits::BACKLOG_MIN - 1)),
            ("backlog_max", server().backlog_max(u64::MAX)),
            ("retry_above", server().half_open_max(512)),
            ("retry_above", server().retry_above(Some(usize::MAX))),
        ];
        for (name, server) in servers {
            assert_eq!(endpoint(Some(server)).err(), Some(ConfigError::OutOfRange(name)));
        }
        let client = ClientConfig::try_from(authority.client()).unwrap().transport(impossible);
        let connected = endpoint(None).unwrap().connect(now, client, ([127, 0, 0, 1], 1).into(), "a.test");
        assert_eq!(connected.err(), Some(ConnectError::Config(why)));
    }
}

//! Ends of streams, in whatever order the two ends see to them: what each is told, and that nothing is left.

use super::*;
use crate::error::{ClosedStream, WriteError};

const STOP: ErrorCode = ErrorCode::from_u32(3);
const RESET: ErrorCode = ErrorCode::from_u32(4);

/// Ways in which the sender's application sees to the end; in any case it lets go of the stream last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writer {
    Finish,
    Reset,
    Nothing,
}

/// Ways in which the reader's application sees to the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    /// Stops without having read anything.
    Stop,
    /// Reads all bytes and stops before it has met the end, as whoever knows how long the object is.
    StopBehind,
    /// Reads to the end, whatever that is.
    Read,
}

/// One stream from the primary to the client.
#[derive(Clone, Copy, Debug)]
struct Case {
    dir: Dir,
    split: bool,
    writer: Writer,
    reader: Reader,
    reader_first: bool,
    /// Time that the second waits for what the first has said.
    pause: Duration,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let writers = [Writer::Finish, Writer::Reset, Writer::Nothing];
        let readers = [Reader::Stop, Reader::StopBehind, Reader::Read];
        [Dir::Uni, Dir::Bi].into_iter().flat_map(move |dir| {
            [false, true].into_iter().flat_map(move |split| {
                writers.into_iter().flat_map(move |writer| {
                    readers.into_iter().flat_map(move |reader| {
                        [false, true].into_iter().flat_map(move |reader_first| {
                            let pauses = [Duration::ZERO, ONE_WAY, ONE_WAY * 5];
                            pauses.map(|pause| Self { dir, split, writer, reader, reader_first, pause })
                        })
                    })
                })
            })
        })
    }

    fn write(self, world: &mut World, stream: StreamId) {
        let now = world.now;
        let primary = world.session(PRIMARY);
        match self.writer {
            // Stopped or not: quinn takes it.
            Writer::Finish => assert_eq!(primary.finish(now, stream), Ok(()), "{self:?}"),
            Writer::Reset => assert_eq!(primary.reset(now, stream, RESET), Ok(()), "{self:?}"),
            Writer::Nothing => {}
        }
    }

    fn read(self, world: &mut World, stream: StreamId) {
        if self.reader != Reader::Read {
            let now = world.now;
            assert_eq!(world.session(CLIENT).stop(now, stream, STOP), Ok(()), "{self:?}");
        }
    }

    fn run(self, world: &mut World, path: PathId, filler: &mut Filler) {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(self.dir).expect("a slot");
        let body = range(100, 300);
        primary.write(now, stream, &mut [object(range(0, 100))]).unwrap();
        if self.split {
            let job = primary.open_job(now, stream, NewJob::new(path, body, "")).unwrap();
            let lease = primary.lease(now, &NewLease::new(job, body)).unwrap();
            world.run(|w| {
                let now = w.now;
                filler.turn(now, w.session(2));
                w.session(PRIMARY).lease_outcome(lease) == Some(LeaseOutcome::Done)
            });
        } else {
            primary.write(now, stream, &mut [object(body)]).unwrap();
        }
        world.run(|w| w.session(CLIENT).accept(self.dir) == Some(stream));
        if self.reader == Reader::StopBehind {
            let mut got = Vec::new();
            world.run(|w| {
                let now = w.now;
                assert!(!read_all(now, w.session(CLIENT), stream, true, &mut got), "{self:?}");
                got.len() == 300
            });
        }
        let steps = if self.reader_first { [Self::read, Self::write] } else { [Self::write, Self::read] };
        let gone = self.writer == Writer::Reset && !self.reader_first && self.pause > ONE_WAY * 2;
        steps[0](self, world, stream);
        world.run_for(self.pause);
        if !(gone && self.reader != Reader::Read && self.split) {
            steps[1](self, world, stream);
        } else {
            let now = world.now;
            let _known = world.session(CLIENT).stop(now, stream, STOP);
        }
        if self.reader == Reader::Read {
            // The handle of the writer is dropped, if it has done nothing: only then there is an end.
            self.drop_writer(world, stream);
            let (mut got, mut end) = (Vec::new(), None);
            world.run(|w| {
                let now = w.now;
                end = match w.session(CLIENT).read(now, stream, usize::MAX, true) {
                    Ok(Some(chunk)) => {
                        got.extend_from_slice(&chunk.bytes);
                        None
                    }
                    Err(ReadError::Blocked) => None,
                    end => Some(end),
                };
                end.is_some()
            });
            if self.writer == Writer::Reset {
                assert_eq!(end, Some(Err(ReadError::Reset(RESET))), "{self:?}");
            } else {
                assert_eq!((end, got), (Some(Ok(None)), object(range(0, 300)).to_vec()), "{self:?}");
            }
            let now = world.now;
            let again = world.session(CLIENT).read(now, stream, 1, true);
            assert_eq!(again, Err(ReadError::ClosedStream), "{self:?}");
        }
        self.drop_writer(world, stream);
        if self.dir == Dir::Bi {
            self.close_other_way(world, stream);
        }
        world.run_for(ONE_WAY * 10);
        self.check_told(world, stream);
    }

    /// Does what a handle does when it is dropped.
    fn drop_writer(self, world: &mut World, stream: StreamId) {
        if self.writer == Writer::Nothing {
            let now = world.now;
            let _over = world.session(PRIMARY).finish(now, stream);
        }
    }

    /// The client's half of a bidirectional stream.
    fn close_other_way(self, world: &mut World, stream: StreamId) {
        let now = world.now;
        let client = world.session(CLIENT);
        if self.reader_first {
            client.finish(now, stream).unwrap();
            world.run_for(self.pause);
            let now = world.now;
            world.session(PRIMARY).stop(now, stream, STOP).unwrap();
        } else {
            world.session(PRIMARY).stop(now, stream, STOP).unwrap();
            world.run_for(self.pause);
            let now = world.now;
            world.session(CLIENT).finish(now, stream).unwrap();
        }
    }

    /// Nothing claims what has not happened, and what the peer wants is heard.
    fn check_told(self, world: &World, stream: StreamId) {
        let told = world.end_of(stream);
        let (arrived, stopped) = (Some(Event::Finished(stream)), Some(Event::Stopped(stream, STOP)));
        let heard = self.pause > ONE_WAY;
        match (self.writer, self.reader) {
            (Writer::Reset, _) if self.reader_first && heard && self.reader != Reader::Read => {
                assert_eq!(told, stopped, "{self:?}");
            }
            (Writer::Reset, _) => assert!(told.is_none() || told == stopped, "{self:?}: {told:?}"),
            (_, Reader::Read) => assert_eq!(told, arrived, "{self:?}"),
            (Writer::Nothing, _) => assert_eq!(told, stopped, "{self:?}"),
            (Writer::Finish, _) if self.reader_first && heard => assert_eq!(told, stopped, "{self:?}"),
            // All of it may have arrived before the reader had enough.
            (Writer::Finish, _) => assert!(told == arrived || told == stopped, "{self:?}: {told:?}"),
        }
    }
}

/// Sizes of what both ends and the secondary keep of streams.
fn kept(world: &World) -> Vec<(&'static str, usize)> {
    let mut kept = Vec::new();
    for session in world.nodes.iter().flat_map(|node| node.sessions.values()) {
        kept.extend([
            ("inbound", session.links.iter().map(|(_, link)| link.inbound.len()).sum()),
            ("outbound", session.links.iter().map(|(_, link)| link.outbound.len()).sum()),
            ("slot waiters", session.slot_waiters.len()),
            ("control waiters", session.control_waiters.len()),
        ]);
        kept.extend(match &session.machine {
            Machine::Client(client) => client.kept(),
            Machine::Primary(primary) => primary.kept(),
            Machine::Secondary(secondary) => secondary.kept(),
            Machine::Greeting(_) => Vec::new(),
        });
    }
    kept.retain(|(_, count)| *count > 0);
    kept
}

/// Of each split stream that its writer had finished when its reader stopped it, 250 bytes stayed at the primary: nobody
/// had a reason to call anything again, and nothing else removed it.
#[test]
fn nothing_is_left_of_a_stream_however_it_ends() {
    let mut world = World::new(1);
    world.connect();
    let path = world.attach(2);
    let mut filler = Filler::default();
    for case in Case::all() {
        case.run(&mut world, path, &mut filler);
        assert_eq!(world.session(PRIMARY).lost(), None, "{case:?}");
        world.run(|w| {
            let now = w.now;
            filler.turn(now, w.session(2));
            filler.leases.retain(|(lease, range, sent)| {
                if *sent == range.len() {
                    w.session(2).drop_lease(now, *lease); // as the handle does
                }
                *sent < range.len()
            });
            filler.jobs.retain(|job| w.session(2).next_lease(*job).is_ok());
            filler.jobs.is_empty()
        });
        world.run_for(ONE_WAY * 5);
        assert_eq!(kept(&world), [], "{case:?}");
    }
}

/// As in quinn: to be told that nobody wants the rest is no error of closing. And nothing is written any more.
#[test]
fn a_stopped_stream_can_be_finished_once() {
    for split in [false, true] {
        let mut world = World::new(1);
        world.connect();
        let path = world.attach(2);
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        primary.write(now, stream, &mut [object(range(0, 100))]).unwrap();
        if split {
            primary.open_job(now, stream, NewJob::new(path, range(100, 300), "")).unwrap();
        }
        world.run(|w| w.session(CLIENT).accept(Dir::Uni) == Some(stream));
        let now = world.now;
        world.session(CLIENT).stop(now, stream, STOP).unwrap();
        world.run_for(ONE_WAY * 3);
        let now = world.now;
        let primary = world.session(PRIMARY);
        assert_eq!(primary.stopped(stream), Ok(Some(STOP)));
        let written = primary.write(now, stream, &mut [object(range(300, 400))]);
        assert_eq!(written, Err(WriteError::Stopped(STOP)));
        assert_eq!(primary.finish(now, stream), Ok(()));
        assert_eq!(primary.stopped(stream), Err(ClosedStream), "forgotten: the event has told");
        assert_eq!(primary.finish(now, stream), Err(ClosedStream));
        world.run_for(ONE_WAY * 3);
        assert_eq!(world.end_of(stream), Some(Event::Stopped(stream, STOP)));
    }
}

/// Whoever had asked what the client has of a stream waited for ever, if the stream ended first.
#[test]
fn a_question_about_a_stream_that_ends_is_told_so() {
    let (mut world, _path, stream, _job) = World::at_work(Dir::Uni, range(0, 300));
    world.run(|w| w.session(CLIENT).accept(Dir::Uni) == Some(stream));
    let now = world.now;
    world.session(CLIENT).stop(now, stream, STOP).unwrap();
    world.session(PRIMARY).sync(now, stream).unwrap();
    world.run_for(ONE_WAY * 5);
    assert!(world.nodes[PRIMARY].events.contains(&Event::Synced(stream)));
    let now = world.now;
    let primary = world.session(PRIMARY);
    assert_eq!(primary.take_received(stream), None);
    assert_eq!(primary.sync(now, stream), Err(LeaseError::ClosedStream));
}

/// A stream whose header had no room when it was finished, and that is then stopped: it could wait for ever.
#[test]
fn a_stream_that_is_stopped_before_its_header_has_left_is_forgotten() {
    let mut world = World::new(0);
    world.connect();
    let now = world.now;
    let primary = world.session(PRIMARY);
    let stream = primary.open(Dir::Uni).unwrap();
    let half = primary.links.home.outbound.half_mut(stream).unwrap();
    (half.finished, half.finish_pending) = (true, true); // as if QUIC had taken none of it
    primary.on_send_stopped(stream, STOP);
    assert!(primary.links.home.outbound.len() == 0);
    assert_eq!(primary.stopped(stream), Err(ClosedStream));
    primary.touch(now);
    world.run_for(ONE_WAY * 3);
    assert_eq!(world.end_of(stream), Some(Event::Stopped(stream, STOP)));
}

/// The end of a read of nothing is not the end of the stream. Spec: quinn, `read_chunk(0)`.
#[test]
fn to_read_nothing_is_to_look_whether_there_is_something() {
    for split in [false, true] {
        let mut world = World::new(1);
        world.connect();
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        if split {
            let run = primary.write_at(now, stream, range(0, 10)).unwrap();
            primary.write_run(now, run, &mut [object(range(0, 10))]).unwrap();
        } else {
            primary.write(now, stream, &mut [object(range(0, 10))]).unwrap();
        }
        world.run(|w| w.session(CLIENT).accept(Dir::Uni) == Some(stream));
        world.run_for(ONE_WAY * 3);
        let now = world.now;
        let client = world.session(CLIENT);
        let chunk = |offset, len| {
            Ok(Some(crate::action::Chunk {
                offset,
                bytes: object(range(offset, offset + len)),
                source: Some(PathId::PRIMARY),
            }))
        };
        let nothing = |offset| Ok(Some(crate::action::Chunk { offset, bytes: Bytes::new(), source: None }));
        for ordered in [true, false] {
            let at = if ordered { 0 } else { 4 };
            assert_eq!(client.read(now, stream, 0, ordered), nothing(at), "split: {split}");
            assert_eq!(client.read(now, stream, 4, ordered), chunk(at, 4), "split: {split}");
        }
        assert_eq!(client.read(now, stream, 9, false), chunk(8, 2), "split: {split}");
        assert_eq!(client.read(now, stream, 0, false), Err(ReadError::Blocked), "split: {split}");
        world.session(PRIMARY).finish(now, stream).unwrap();
        world.run_for(ONE_WAY * 3);
        let now = world.now;
        assert_eq!(world.session(CLIENT).read(now, stream, 0, false), Ok(None), "split: {split}");
    }
}

/// Runs that came before a stream for which there is no room: they were left unread, and kept their slots for good.
#[test]
fn runs_of_a_stream_that_is_turned_away_give_back_their_slots() {
    let mut world = World::new(0);
    world.connect_with(TransportConfig::default().session_window(128 * 1024)); // room for one split stream
    let mut streams = Vec::new();
    for _ in 0..3 {
        let now = world.now;
        let primary = world.session(PRIMARY);
        let stream = primary.open(Dir::Uni).unwrap();
        let run = primary.write_at(now, stream, range(0, 1 << 16)).unwrap();
        primary.write_run(now, run, &mut [object(range(0, 1 << 16))]).unwrap();
        primary.finish(now, stream).unwrap();
        if streams.len() == 2 {
            // The client has to see the run before the split: its control is read late.
            let Machine::Client(client) = &mut world.session(CLIENT).machine else {
                panic!("a client");
            };
            assert!(client.kept().iter().all(|(what, count)| *what != "waiting" || *count == 0));
            let header = crate::wire::StreamHeader::Internal { stream, offset: 0 };
            client.on_internal(HOME, StreamId::from_u64(4003).unwrap(), header);
        }
        streams.push(stream);
        world.run_for(ONE_WAY * 10);
    }
    assert_eq!(world.end_of(streams[2]), Some(Event::Stopped(streams[2], ErrorCode::NO_CREDIT)));
    assert!(!kept(&world).iter().any(|(what, _)| *what == "waiting"));
}

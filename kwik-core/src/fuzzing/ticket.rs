//! Tickets: what opens is what was sealed, and is let in exactly when all of it fits.
//!
//! A signature costs a thousand times what the bytes do, so there are two targets: one for the bytes alone, which runs
//! as often as those of frames, and one for all of it.

use super::source::{OP, Source};
use crate::{
    id::{PathId, PublicKey, SessionId, SpkiHash},
    lease::ticket::{Audience, Shown, Signer as _, SigningKey, Ticket, TicketError},
    limits::{CLOCK_SKEW, TICKET_LIFETIME},
};

/// Time at which the tickets are shown, give or take.
const NOW: u64 = 1_800_000_000;

/// Opens `data` as a ticket, then a sealed one with the damage that `data` describes; checks what opens against a
/// place and time that `data` names.
///
/// # Panics
/// If a ticket opens that was not sealed so, does not seal to the same bytes again, or is let in wrongly.
pub fn ticket_open(data: &[u8]) {
    let signer = SigningKey::from_seed([1; 32]);
    let keys = [PublicKey::new([0; 32]), signer.public_key()];
    if let Ok((ticket, _)) = Ticket::open(data, &keys) {
        assert_eq!(ticket.seal(&signer), data, "nothing but what was sealed opens");
    }

    let (setup, damage) = data.split_at(data.len().min(4 * OP));
    let mut source = Source::new(setup);
    let ticket = ticket(&mut source);
    let sealed = ticket.seal(&signer);
    assert_eq!(Ticket::open(&sealed, &keys), Ok((ticket, signer.public_key())));
    assert_eq!(Ticket::open(&sealed, &[]), Err(TicketError::Untrusted));
    show(&ticket, &signer, &mut source);
    let bytes = damaged(&sealed, damage);
    let opened = Ticket::open(&bytes, &keys);
    assert_eq!(opened.is_ok(), bytes == sealed, "{opened:?}");
}

/// Reads `data` as the body of a ticket, then one that was written with the damage that `data` describes. No signature is
/// made or looked at.
///
/// # Panics
/// If bytes are read that are not what the ticket that they are read as is written as, or a written one is not read.
pub fn ticket_decode(data: &[u8]) {
    let unique = |body: &[u8]| {
        let read = Ticket::decode(body);
        if let Some((key, ticket)) = &read {
            assert_eq!(ticket.encode(key), body, "each ticket has one form");
        }
        read
    };
    unique(data);

    let (setup, damage) = data.split_at(data.len().min(4 * OP));
    let mut source = Source::new(setup);
    let (ticket, key) = (ticket(&mut source), [source.any(); 8]);
    let body = ticket.encode(&key);
    assert_eq!(unique(&body), Some((key, ticket)));
    unique(&damaged(&body, damage));
}

/// A ticket that fits some places and times, and not others.
fn ticket(source: &mut Source<'_>) -> Ticket {
    Ticket {
        session: SessionId::new([source.any::<u8>() % 2; 16]),
        path: PathId::new(source.any::<u8>().into()),
        audience: audience(source),
        client_key: PublicKey::new([source.any::<u8>() % 2; 32]),
        issued: moment(source),
        expires: moment(source),
        nonce: [source.any(); 16],
    }
}

/// One key, or a few.
fn audience(source: &mut Source<'_>) -> Audience {
    let mut key = || SpkiHash::new([source.any::<u8>() % 4; 32]);
    let first = Audience::new(key());
    (0..key().as_bytes()[0]).fold(first, |audience, _| audience.with(key()).unwrap_or(audience))
}

/// A time around now, or at the ends of what can be said.
fn moment(source: &mut Source<'_>) -> u64 {
    match source.below(8) {
        0 => 0,
        1 => u64::MAX - source.below(8),
        _ => NOW - 80 + source.below(160),
    }
}

/// Shows the ticket somewhere, and asks for the verdict a careful reader of PROTOCOL.md §9 would give.
fn show(ticket: &Ticket, signer: &SigningKey, source: &mut Source<'_>) {
    let now = moment(source);
    let session = SessionId::new([source.any::<u8>() % 2; 16]);
    let path = PathId::new(source.any::<u8>().into());
    let own = [SpkiHash::new([source.any::<u8>() % 4; 32]), SpkiHash::new([3; 32])];
    let client_key = PublicKey::new([source.any::<u8>() % 2; 32]);
    let ticket = if source.rarely(2) { Ticket { path, session, client_key, ..*ticket } } else { *ticket };

    let skew = i128::from(CLOCK_SKEW.as_secs());
    let [now_wide, issued, expires] = [now, ticket.issued, ticket.expires].map(i128::from);
    let lifetime = expires - issued;
    let ours = ticket.audience.iter().any(|key| own.contains(key))
        && ticket.session == session
        && ticket.path == path
        && ticket.client_key == client_key;
    let lives = (0..=i128::from(TICKET_LIFETIME.as_secs()) + skew).contains(&lifetime);
    // A ticket cannot be late at the end of time: the sum that would say so has no seconds left.
    let last = (expires + skew).min(u64::MAX.into());
    let begun = issued <= (now_wide + skew).min(u64::MAX.into());

    let shown = Shown { session, path, own: &own, client_key: &client_key };
    let verdict = Ticket::admit(&ticket.seal(signer), &[signer.public_key()], now, &shown);
    assert_eq!(verdict.is_ok(), ours && lives && begun && now_wide <= last, "{verdict:?}");
    if let Err(error) = verdict {
        let fresh_one_helps = ours && lives && begun;
        assert_eq!(matches!(error, TicketError::Expired { .. }), fresh_one_helps, "{error:?}");
    }
}

/// Changes bytes of a ticket, cuts it or makes it longer, or does nothing to it.
fn damaged(whole: &[u8], damage: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let mut source = Source::new(damage);
    for _ in 0..source.below(4) {
        let at = usize::from(source.any::<u8>()) % bytes.len().max(1);
        let with: u8 = source.any();
        match source.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, with),
            _ => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= with),
        }
    }
    bytes
}

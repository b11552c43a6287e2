//! Messages between `kwik get`, `kwik serve` and `kwik mirror`, inside KWIK's streams.
//!
//! # Client and primary
//! Both name [`ALPN`] in their TLS configuration. The client opens a bidirectional stream per request, sends one
//! [`Request`] and finishes its half. The primary answers on the other half with messages ([`Answer`]):
//!
//! | Request | Answers |
//! |---|---|
//! | [`Request::List`] | any number of [`Answer::Listing`], then [`Answer::ListingEnd`] and the stream's end |
//! | [`Request::Get`] | one [`Answer::Parts`], an entry for each that was asked for; then the data, up to the stream's end |
//!
//! Before them may come [`Answer::Working`], while digests are computed; instead of them [`Answer::Refused`], and the
//! stream's end. Requests go on side by side, [`REQUESTS_AT_ONCE`] of them; others wait until one of these is done.
//!
//! A message is its length in bytes (`u32`, little-endian) and that many bytes of [postcard](https://postcard.jamesmunns.com).
//!
//! **Data** are the wanted ranges one after another, part after part, without anything in between: [`Layout`] finds the place
//! of a byte of the stream. They begin where the message before them ends, which is the layout's base. The client
//! therefore reads messages in order, and then what comes, in any order. The primary has all servers bring them.
//!
//! **Digests.** An object's version is the BLAKE3 hash of its bytes. A [`Tree`] has the nodes of BLAKE3's own tree at the level of
//! [`leaf_len`] bytes: the version follows from them, and each leaf can be verified on its own, whichever server brought
//! it and whenever. A client that has verified leaves asks for the [`Rest`](Wanted::Rest) and names the version: if the object is another one by now,
//! the answer is [`Code::Changed`] and no data, so that two versions are never mixed.
//!
//! **Ends.** A stream whose data cannot be completed is reset with a code of [`codes`]. The client ends the session
//! with [`codes::DONE`].
//!
//! # Primary and mirror
//! The payload of a job is a [`Supply`]: what the stream's bytes are. A mirror that cannot bring them refuses the job with
//! a code of [`codes`], and resets a lease with one.

pub(crate) mod codes;
mod frame;
mod layout;
mod message;
mod path;
mod ranges;
mod supply;
mod tree;

pub(crate) use self::{
    frame::{MessageError, Reader, encode},
    layout::{Layout, Place},
    message::{Answer, Code, Entry, Part, Parts, Refusal, Request, Want, Wanted},
    path::ObjectPath,
    ranges::Ranges,
    supply::{Room, Supplied, Supply},
    tree::{LeafHasher, Tree, Version, leaf_len, leaves},
};

/// The application's protocol, named in the hello.
pub(crate) const ALPN: &[u8] = b"kwik-get/1";
/// The UDP port of a primary unless another is named.
pub(crate) const PORT: u16 = 5945;
/// Requests of one session that a primary works on at once.
pub(crate) const REQUESTS_AT_ONCE: usize = 8;
/// Objects in one request: each is open while it is answered, at the client, too.
pub(crate) const PARTS_MAX: usize = 128;
/// Bytes that the objects of one request had better not exceed together, if they are several: a request is the unit that
/// servers divide among themselves, and what is lost if one is refused. Dividing costs the slowest of them about a tenth
/// of a second each time, so that shorter ones are not worth it.
pub(crate) const PARTS_BYTES: u64 = 8 * 1024 * 1024;

//! Messages as bytes: a length, and postcard.

use bytes::Bytes;
use kwik_tokio::{ReadExactError, RecvStream};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{Answer, Request, message::ENTRIES_MAX};

/// Bytes of the length in front.
const LEN: usize = 4;

/// A kind of message.
pub(crate) trait Message: Serialize + DeserializeOwned {
    /// Bytes that one may have.
    const MAX: usize;

    /// Returns whether it keeps to bounds that its types do not state.
    fn is_bounded(&self) -> bool {
        true
    }
}

impl Message for Request {
    const MAX: usize = 1024 * 1024;
}

impl Message for Answer {
    /// More digests than the parts of any request have that keeps to [`PARTS_BYTES`](super::PARTS_BYTES), and those of the
    /// longest object many times.
    const MAX: usize = 16 * 1024 * 1024;

    fn is_bounded(&self) -> bool {
        !matches!(self, Self::Listing(entries) if entries.len() > ENTRIES_MAX)
    }
}

/// Reasons that no message was read.
#[derive(Debug, Error)]
pub(crate) enum MessageError {
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("the peer's message does not follow the protocol: {0}")]
    Malformed(#[from] postcard::Error),
    #[error("a message has too many entries")]
    Unbounded,
    #[error("no message came: {0}")]
    Stream(#[from] ReadExactError),
}

/// Returns a message as it is sent.
///
/// # Errors
/// - [`MessageError::TooLong`] if nobody would take it.
pub(crate) fn encode<M: Message>(message: &M) -> Result<Bytes, MessageError> {
    let mut bytes = postcard::to_extend(message, vec![0; LEN])?;
    let len = bytes.len() - LEN;
    let prefix = u32::try_from(len).ok().filter(|_| len <= M::MAX).ok_or(MessageError::TooLong(len))?;
    if let Some(head) = bytes.first_chunk_mut() {
        *head = prefix.to_le_bytes();
    }
    Ok(bytes.into())
}

/// Takes a message from bytes, the length not included.
fn decode<M: Message>(bytes: &[u8]) -> Result<M, MessageError> {
    let (message, rest) = postcard::take_from_bytes::<M>(bytes)?;
    if !rest.is_empty() {
        return Err(MessageError::Malformed(postcard::Error::SerdeDeCustom));
    }
    if !message.is_bounded() {
        return Err(MessageError::Unbounded);
    }
    Ok(message)
}

/// Reads messages of one stream, from its beginning.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    stream: &'a mut RecvStream,
    read: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(stream: &'a mut RecvStream) -> Self {
        Self { stream, read: 0 }
    }

    /// Waits for the next message. Not cancel-safe.
    ///
    /// # Errors
    /// One of [`MessageError`].
    pub(crate) async fn next<M: Message>(&mut self) -> Result<M, MessageError> {
        let mut len = [0; LEN];
        self.stream.read_exact(&mut len).await?;
        let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
        if len > M::MAX {
            return Err(MessageError::TooLong(len));
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).await?;
        self.read += (LEN + len) as u64;
        decode(&body)
    }

    /// Returns the stream's offset behind the messages read: where data begin.
    pub(crate) fn offset(&self) -> u64 {
        self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        Code, Entry, LeafHasher, ObjectPath, PARTS_BYTES, PARTS_MAX, Part, Parts, Ranges, Refusal, Tree,
        Version, Want, Wanted, leaves,
    };

    fn path(text: &str) -> ObjectPath {
        ObjectPath::parse(text).unwrap()
    }

    fn back<M: Message + std::fmt::Debug + PartialEq>(message: &M) {
        let bytes = encode(message).unwrap();
        let (len, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(u32::from_le_bytes(*len) as usize, body.len());
        assert_eq!(&decode::<M>(body).unwrap(), message);
        for cut in 0..body.len().min(200) {
            assert!(decode::<M>(&body[..cut]).is_err(), "{cut} bytes of {message:?}");
        }
        let longer = [body, &[0]].concat();
        assert!(decode::<M>(&longer).is_err());
    }

    #[test]
    fn messages_come_back() {
        let ranges = kwik_tokio::ByteRange::between(1 << 20, 1 << 30);
        let rest = Wanted::Rest { version: Version::new([7; 32]), ranges: Ranges::new(ranges).unwrap() };
        let wants = [Wanted::Whole, Wanted::Tree, rest].map(|wanted| Want { path: path("a/b"), wanted });
        back(&Request::Get(Parts::new(wants.to_vec()).unwrap()));
        back(&Request::List { dir: None, recursive: true });
        back(&Request::List { dir: Some(path("models/x")), recursive: false });

        let tree = Tree::new(0, vec![LeafHasher::new(0, 0).finish()]).unwrap();
        let refused = Refusal::new(Code::Unreadable, "disk on fire");
        back(&Answer::Working { done: 1, total: u64::MAX });
        back(&Answer::Refused(refused.clone()));
        back(&Answer::Listing(vec![Entry { path: path("x"), len: 9 }; ENTRIES_MAX]));
        back(&Answer::ListingEnd { left_out: 3 });
        back(&Answer::Parts(Parts::new(vec![Part::Sent(tree), Part::Refused(refused)]).unwrap()));
    }

    #[test]
    fn the_longest_messages_fit() {
        let long = path(&"x".repeat(1024));
        let ranges = Ranges::new((0..256).map(|n| {
            let start = (1 << 60) + (n << 50);
            kwik_tokio::ByteRange::between(start, start + (1 << 49)).unwrap()
        }));
        let wanted = Wanted::Rest { version: Version::new([7; 32]), ranges: ranges.unwrap() };
        let want = Want { path: long.clone(), wanted };
        encode(&Request::Get(Parts::new(vec![want; PARTS_MAX]).unwrap())).unwrap();
        let len = 1 << 50;
        let tree = Tree::new(len, vec![[7; 32]; usize::try_from(leaves(len)).unwrap()]).unwrap();
        encode(&Answer::Parts(Parts::new(vec![Part::Sent(tree); 16]).unwrap())).unwrap();
        let small =
            Tree::new(PARTS_BYTES, vec![[7; 32]; usize::try_from(leaves(PARTS_BYTES)).unwrap()]).unwrap();
        encode(&Answer::Parts(Parts::new(vec![Part::Sent(small); PARTS_MAX]).unwrap())).unwrap();
        encode(&Answer::Listing(vec![Entry { path: long, len: u64::MAX }; ENTRIES_MAX])).unwrap();
    }

    #[test]
    fn listings_come_in_pieces() {
        let entries = vec![Entry { path: path("x"), len: 9 }; ENTRIES_MAX + 1];
        let bytes = postcard::to_allocvec(&Answer::Listing(entries)).unwrap();
        assert!(matches!(decode::<Answer>(&bytes), Err(MessageError::Unbounded)));
    }

    #[test]
    fn noise_is_no_message() {
        for seed in 0..2000_u64 {
            let noise: Vec<u8> = (0..64)
                .map(|n| (blake3::hash(&[seed.to_le_bytes(), [n; 8]].concat()).as_bytes())[0])
                .collect();
            // Some of it may be a message; none of it may do harm.
            let _either = (decode::<Request>(&noise), decode::<Answer>(&noise));
        }
    }
}

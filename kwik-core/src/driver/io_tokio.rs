//! tokio's IO traits on streams.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{lease::SecondaryStream, ranges::RangeWriter, recv::RecvStream, stream, stream::SendStream};

impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        ready!(self.get_mut().poll_copy(cx, room, &mut |bytes| buf.put_slice(bytes)))?;
        Poll::Ready(Ok(()))
    }
}

macro_rules! async_write {
    ($name:ty, $shutdown:expr) => {
        impl AsyncWrite for $name {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                stream::poll_slice(self.get_mut(), cx, buf).map_err(io::Error::from)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                let shutdown: fn(&mut Self) -> Result<(), _> = $shutdown;
                Poll::Ready(shutdown(self.get_mut()).map_err(io::Error::from))
            }
        }
    };
}

async_write!(SendStream, |stream| stream.finish());
async_write!(SecondaryStream, |stream| stream.finish());
async_write!(RangeWriter, |writer| writer.check_complete());

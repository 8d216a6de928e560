//! Transitions in the log: who has entered or left which fence, for the feed.
//!
//! The payload of a frame is `FENCE REASON LINE`: the name of the fence, percent-encoded; the reason for
//! leaving, or `-`; and the AT line of the record that caused the transition.

use crate::text::percent::{decode, push_encoded};

/// A client has entered or left a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition<'a> {
    /// The name of the fence.
    pub fence: Vec<u8>,
    /// The reason for leaving; `None` if the client has entered.
    pub left: Option<&'a str>,
    /// The AT line.
    pub line: &'a [u8],
}

/// Appends the payload of a transition. `left` is a word.
pub(super) fn push(out: &mut Vec<u8>, fence: &[u8], left: Option<&str>, line: &[u8]) {
    push_encoded(out, fence);
    out.push(b' ');
    out.extend_from_slice(left.unwrap_or("-").as_bytes());
    out.push(b' ');
    out.extend_from_slice(line);
}

impl<'a> Transition<'a> {
    /// Parses the payload of a frame.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut fields = payload.splitn(3, |&byte| byte == b' ');
        let fence = decode(str::from_utf8(fields.next()?).ok()?)?.into_owned();
        let left = str::from_utf8(fields.next()?).ok()?;
        let line = fields.next()?;
        Some(Self { fence, left: (left != "-").then_some(left), line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_bytes_survives() {
        let line = b"AT Clark +0.263873386 kiwi +34.068930-118.445127 1621464827.5";
        for (fence, left) in
            [(&b"depot"[..], None), (b"a b\n%\xc3\xa9", Some("moved")), (b"-", Some("forgotten"))]
        {
            let mut payload = Vec::new();
            push(&mut payload, fence, left, line);
            assert!(!payload.contains(&b'\n'));
            let expected = Transition { fence: fence.to_vec(), left, line };
            assert_eq!(Transition::parse(&payload), Some(expected));
        }
        for bad in [&b""[..], b"a", b"a -", b"%2 - AT", b"\xff - AT"] {
            assert_eq!(Transition::parse(bad), None);
        }
    }
}

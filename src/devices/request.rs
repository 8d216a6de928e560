//! Heads of requests that devices send, and the credentials in them.

use percent_encoding::percent_decode_str;

use crate::http::request::{Head, Parsed, Rejection, Resource, list};
use crate::http::response::Status;

/// A request up to its body. Views of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method is HEAD: no body in the response, and nothing changes.
    pub head_only: bool,
    /// Path of the target, still percent-encoded.
    pub path: &'a str,
    /// Query of the target, still percent-encoded.
    pub query: &'a str,
    /// True if the connection stays open after the response.
    pub keep_alive: bool,
    /// The length of the body.
    pub framing: Framing,
    /// True if the device waits for an interim response before it sends the body.
    pub expects_continue: bool,
    /// True if a page in a browser makes the request. This listener serves no page, so it is one of
    /// another site.
    pub is_from_page: bool,
    /// The field Authorization.
    pub authorization: &'a [u8],
    /// The address that a reverse proxy has added to X-Forwarded-For.
    pub forwarded_for: Option<&'a str>,
    /// The field X-Limit-U of `OwnTracks`: the user.
    pub limit_u: &'a str,
    /// The field X-Limit-D of `OwnTracks`: the device.
    pub limit_d: &'a str,
}

/// The length of a body (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

impl<'a> Request<'a> {
    /// Parses the head at the start of `input`.
    #[must_use]
    pub fn parse(input: &'a [u8]) -> Parsed<Self> {
        Parsed::parse(input, Self::read)
    }

    fn read(head: &Head<'_, 'a>) -> Result<Self, Rejection> {
        if !matches!(head.method, "GET" | "HEAD" | "POST") {
            let reason = "only GET, HEAD and POST are supported";
            return Err(Rejection::new(Status::METHOD_NOT_ALLOWED, reason));
        }
        let Resource { path, query, .. } = head.resource()?;
        let mut request = Self {
            head_only: head.method == "HEAD",
            path,
            query,
            keep_alive: head.keeps_alive(),
            framing: Framing::Length(0),
            expects_continue: false,
            is_from_page: false,
            authorization: &[],
            forwarded_for: None,
            limit_u: "",
            limit_d: "",
        };
        let (mut length, mut coding) = (None, None);
        for &httparse::Header { name, value } in head.fields {
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            let text = str::from_utf8(value).unwrap_or("");
            if is("Content-Length") {
                let is_first = length.replace(parse_length(value)?).is_none();
                if !is_first {
                    return Err(Rejection::bad("there is more than one Content-Length field"));
                }
            } else if is("Transfer-Encoding") {
                let is_first = coding.replace(text.trim()).is_none();
                if !is_first {
                    return Err(Rejection::bad("there is more than one Transfer-Encoding field"));
                }
            } else if is("Expect") {
                if !text.eq_ignore_ascii_case("100-continue") {
                    let reason = "only 100-continue can be expected";
                    return Err(Rejection::new(Status::EXPECTATION_FAILED, reason));
                }
                request.expects_continue = head.is_1_1; // 1.0 knows no interim responses
            } else if is("Origin") {
                request.is_from_page = true;
            } else if is("Sec-Fetch-Site") {
                // `none`: a person has typed the URL.
                request.is_from_page |= !list(text).all(|site| site.eq_ignore_ascii_case("none"));
            } else if is("Authorization") {
                request.authorization = value;
            } else if is("X-Forwarded-For") {
                // A proxy appends; what is before may come from the device.
                request.forwarded_for = list(text).last().filter(|it| !it.is_empty());
            } else if is("X-Limit-U") {
                request.limit_u = text.trim();
            } else if is("X-Limit-D") {
                request.limit_d = text.trim();
            }
        }
        request.framing = match (length, coding) {
            (length, None) => Framing::Length(length.unwrap_or(0)),
            // Either field alone may be the one that a proxy goes by: request smuggling.
            (Some(_), Some(_)) => {
                let reason = "there are both Content-Length and Transfer-Encoding";
                return Err(Rejection::bad(reason));
            }
            (None, Some(coding)) if head.is_1_1 && coding.eq_ignore_ascii_case("chunked") => {
                Framing::Chunked
            }
            (None, Some(_)) => {
                let reason = "the only transfer coding that is supported is chunked, in HTTP/1.1";
                return Err(Rejection::bad(reason));
            }
        };
        Ok(request)
    }

    /// Returns the first result of `accept` among the tokens that the request carries: in the path as
    /// `/t/TOKEN`, in the field Authorization, and in the query as `token=TOKEN`.
    pub fn find_token<T>(&self, accept: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let of_path = self.path.strip_prefix("/t/").map(|rest| rest.split('/').next());
        let of_path = of_path.flatten().map(decode);
        if let Some(accepted) = of_path.and_then(|token| accept(&token)) {
            return Some(accepted);
        }
        let accepted = match Authorization::parse(self.authorization) {
            Some(Authorization::Bearer(token)) => accept(token),
            Some(Authorization::Basic { login, raw }) => {
                let (user, password) = login.as_deref().map_or((&[][..], &[][..]), split_login);
                // Overland sends the login as it is. Some apps have one field only, for the user.
                let raw = raw.split(|&byte| byte == b':');
                let user = Some(user).filter(|_| password.is_empty());
                Some(password)
                    .into_iter()
                    .chain(user)
                    .chain(raw)
                    .filter(|token| !token.is_empty())
                    .find_map(&accept)
            }
            None => None,
        };
        accepted.or_else(|| {
            let tokens = self.query.split('&').filter_map(|pair| pair.strip_prefix("token="));
            tokens.map(decode).find_map(|token| accept(&token))
        })
    }

    /// Returns the user of a Basic login, unless it is the token.
    #[must_use]
    pub fn user(&self) -> Vec<u8> {
        match Authorization::parse(self.authorization) {
            Some(Authorization::Basic { login: Some(login), .. }) => match split_login(&login) {
                (user, [_, ..]) => user.to_vec(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

/// Returns a Content-Length, saturated. Signs and lists are not accepted.
fn parse_length(value: &[u8]) -> Result<u64, Rejection> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Rejection::bad("Content-Length is not a number"));
    }
    Ok(value.iter().fold(0, |length: u64, digit| {
        length.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

/// The field Authorization.
enum Authorization<'a> {
    /// RFC 6750.
    Bearer(&'a [u8]),
    /// RFC 7617: user, colon, password; and the field as it was sent.
    Basic { login: Option<Vec<u8>>, raw: &'a [u8] },
}

impl<'a> Authorization<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let at = value.iter().position(|&byte| byte == b' ')?;
        let (scheme, rest) = (&value[..at], value[at..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"Bearer") {
            return Some(Self::Bearer(rest));
        }
        let is_basic = scheme.eq_ignore_ascii_case(b"Basic");
        is_basic.then(|| Self::Basic { login: decode_base64(rest), raw: rest })
    }
}

fn split_login(login: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b':', login) {
        Some(at) => (&login[..at], &login[at + 1..]),
        None => (login, &[]),
    }
}

/// Decodes base64 (RFC 4648, section 4), with or without its padding.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for &digit in &text[..end] {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// Decodes a part of a URL; a `%` without two digits stands for itself.
fn decode(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Request<'_> {
        match Request::parse(text.as_bytes()) {
            Parsed::Complete(request, _) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn status(fields: &str) -> u16 {
        match Request::parse(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()) {
            Parsed::Rejected(rejection) => rejection.status.code(),
            Parsed::Complete(..) => 200,
            Parsed::Partial => 0,
        }
    }

    #[test]
    fn a_body_has_exactly_one_length() {
        for (fields, expected) in [
            ("", 200),
            ("Content-Length: 0\r\n", 200),
            ("Content-Length: 99999999999999999999999999\r\n", 200),
            ("Transfer-Encoding: Chunked\r\n", 200),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
            ("Content-Length: 1, 1\r\n", 400),
            ("Content-Length: +1\r\n", 400),
            ("Content-Length: 1 1\r\n", 400),
            ("Content-Length:\r\n", 400),
            ("Content-Length: 0x1\r\n", 400),
            ("Content-Length: -1\r\n", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: gzip, chunked\r\n", 400),
            ("Transfer-Encoding: identity\r\n", 400),
            ("Transfer-Encoding: xchunked\r\n", 400),
            ("Transfer-Encoding : chunked\r\n", 400),
            ("X: a\r\n b\r\n", 400),
            ("Expect: 100-Continue\r\n", 200),
            ("Expect: 200-ok\r\n", 417),
        ] {
            assert_eq!(status(fields), expected, "{fields:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(Request::parse(old.as_bytes()), Parsed::Rejected(_)));
        let old = parse("POST / HTTP/1.0\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!((old.framing, old.keep_alive), (Framing::Length(7), false));
        assert!(!old.expects_continue);
        for method in ["OPTIONS", "PUT", "DELETE", "get"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            let Parsed::Rejected(rejection) = Request::parse(text.as_bytes()) else { panic!() };
            assert_eq!(rejection.status, Status::METHOD_NOT_ALLOWED);
        }
    }

    #[test]
    fn tokens_are_found_at_every_place() {
        let is_token = |token: &[u8]| (token == b"k3y").then_some(());
        let found = |target: &str, field: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n");
            parse(&text).find_token(is_token).is_some()
        };
        for target in
            ["/t/k3y", "/t/k3y/", "/t/k3y/pub?u=a", "/t/k%33y", "/?token=k3y", "/x?a=b&token=k%33y"]
        {
            assert!(found(target, ""), "{target}");
        }
        for field in [
            "Bearer k3y",
            "bearer  k3y ",
            "Basic dTprM3k=", // u:k3y
            "Basic dTprM3k",  // without its padding
            "Basic OmszeQ==", // :k3y
            "Basic azN5Og==", // k3y:
            "Basic k3y:",     // Overland
        ] {
            assert!(found("/", &format!("Authorization: {field}\r\n")), "{field}");
        }
        assert!(found("/t/wrong", "Authorization: Bearer k3y\r\n"));
        for target in ["/", "/t", "/t/", "/t//k3y", "/T/k3y", "/t/k3yx", "/x/t/k3y", "/?xtoken=k3y"]
        {
            assert!(!found(target, ""), "{target}");
        }
        for field in ["k3y", "Bearer", "Digest k3y", "Bearerk3y", "Basic", "Basic azN5OnB3"] {
            assert!(!found("/", &format!("Authorization: {field}\r\n")), "{field}");
        }
    }

    #[test]
    fn requests_of_pages_are_recognized() {
        for (fields, expected) in [
            ("", false),
            ("Sec-Fetch-Site: none\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\n", true),
            ("Sec-Fetch-Site: same-site\r\n", true),
            ("Sec-Fetch-Site: same-origin\r\n", true),
            ("Sec-Fetch-Site: none, cross-site\r\n", true),
            ("Origin: http://a\r\n", true),
            ("Origin: null\r\n", true),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(parse(&text).is_from_page, expected, "{fields}");
        }
    }
}

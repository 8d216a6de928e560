use super::*;
use crate::feed::xadd;
use crate::storage::frame::push_frame;

/// Segments, by number.
struct Log(BTreeMap<u64, Vec<u8>>);

impl Log {
    /// Two segments. The first one has `count` updates with lines of equal length, of a client with this
    /// name.
    fn of(count: u32, client: &str) -> Self {
        let mut log = Self(BTreeMap::new());
        for number in [1, 2] {
            let salt = &Salt::of(FileName::Segment(number));
            let bytes = log.0.entry(number).or_default();
            push_frame(bytes, salt, Kind::HEADER, b"proxy-herd storage 1 node A boot 1");
            let ordinal = if number == 1 { 0 } else { count };
            let mut mark = Vec::new();
            Mark { millis: 1000 * number, ordinal }.push(&mut mark);
            push_frame(bytes, salt, Kind::MARK, &mark);
            for time in 0..count {
                let line = format!("AT A +0.000000000 {client} +1-1 {}", 1_000_000_000 + time);
                push_frame(bytes, salt, Kind::UPDATE, line.as_bytes());
            }
        }
        log
    }

    fn segments(&self) -> Vec<Segment> {
        let segment =
            |(&number, bytes): (&u64, &Vec<u8>)| Segment { number, length: bytes.len() as u64 };
        self.0.iter().map(segment).collect()
    }
}

impl Source for Log {
    fn read(
        &mut self,
        segment: u64,
        offset: u64,
        most: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let bytes = self.0.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        // A cutter that looks for a mark reads the beginning of a segment.
        let length = if offset == 0 { rest.len() } else { line };
        out.extend_from_slice(&rest[..length.min(most)]);
        Ok(())
    }
}

/// The frame that does not fit in a batch may be the first one of what was read at once. Here it always is,
/// since the source returns one line at a time.
#[test]
fn nothing_is_skipped_wherever_a_batch_ends() {
    let count = 2 * xadd::MAX_ENTRIES;
    // In bytes, a batch of Redis is full before it has the most entries.
    let mut log = Log::of(count, &"k".repeat(200));
    let segments = log.segments();
    for form in [Form::json(), Form::Redis(xadd::Writer::new(b"herd:A", 0))] {
        let mut cutter = Cutter::new(Filter::All, form);
        cutter.start(Memo::default());
        let mut entries = 0;
        loop {
            let batch = cutter.cut(&segments, Vec::new(), &mut log).unwrap();
            assert_eq!(batch.missing, 0);
            entries += batch.entries;
            if !batch.has_more {
                break;
            }
        }
        assert_eq!(entries, 2 * count);
    }
}

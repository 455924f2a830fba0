//! What an HTTP/2 backend announces, read off its frames (RFC 9113 §4.1, §6.5, §6.8).

/// Finds `SETTINGS` and `GOAWAY` in what a backend sends, however that is cut.
///
/// hyper acts on both but tells of neither. Of all other frames, only the nine bytes of the header
/// are looked at. What is no HTTP/2 is for hyper to notice; here it is frames of unknown types.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    // The header of a frame, then whichever setting is being read.
    held: [u8; HEADER],
    held_len: usize,
    // What is left of the payload.
    left: usize,
    inside: Inside,
}

/// Something that a backend has announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// Its settings, with the limit of simultaneous streams if they have one.
    Settings {
        /// `SETTINGS_MAX_CONCURRENT_STREAMS`.
        max_streams: Option<u32>,
    },
    /// It takes no new streams.
    GoAway,
}

#[derive(Clone, Copy, Debug, Default)]
enum Inside {
    /// A frame's header.
    #[default]
    Header,
    /// A payload that says nothing of interest.
    Other,
    /// Settings, of which the last for streams counts.
    Settings { max_streams: Option<u32> },
}

impl FrameReader {
    /// Reads on, and tells what was announced.
    pub(crate) fn read(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Announced)) {
        while !bytes.is_empty() {
            match self.inside {
                Inside::Header => {
                    if let Some(header) = self.hold(&mut bytes, HEADER) {
                        self.begin(&header, &mut tell);
                    }
                }
                Inside::Other => {
                    let skipped = self.left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.left -= skipped;
                }
                Inside::Settings { .. } => {
                    let size = SETTING.min(self.held_len + self.left);
                    let before = bytes.len();
                    let setting = self.hold(&mut bytes, size);
                    self.left -= before - bytes.len();
                    if let Some([0, MAX_CONCURRENT_STREAMS, a, b, c, d, ..]) = setting {
                        let max_streams = Some(u32::from_be_bytes([a, b, c, d]));
                        self.inside = Inside::Settings { max_streams };
                    }
                }
            }
            self.end(&mut tell);
        }
    }

    /// Moves bytes to what is held; returns that once it is `size` bytes.
    fn hold(&mut self, bytes: &mut &[u8], size: usize) -> Option<[u8; HEADER]> {
        let moved = (size - self.held_len).min(bytes.len());
        let (taken, rest) = bytes.split_at(moved);
        self.held[self.held_len..][..moved].copy_from_slice(taken);
        self.held_len += moved;
        *bytes = rest;
        if self.held_len < size {
            return None;
        }
        let whole = if size < SETTING { [u8::MAX; HEADER] } else { self.held };
        self.held_len = 0;
        Some(whole)
    }

    fn begin(&mut self, header: &[u8; HEADER], tell: &mut impl FnMut(Announced)) {
        let [a, b, c, kind, flags, stream @ ..] = *header;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        let connection = u32::from_be_bytes(stream) & RESERVED == 0;
        self.inside = match kind {
            SETTINGS if connection && flags & ACK == 0 => Inside::Settings { max_streams: None },
            GOAWAY if connection => {
                tell(Announced::GoAway);
                Inside::Other
            }
            _ => Inside::Other,
        };
    }

    /// Goes on to the next frame if this one is over.
    fn end(&mut self, tell: &mut impl FnMut(Announced)) {
        match self.inside {
            Inside::Header => return,
            _ if self.left > 0 => return,
            Inside::Settings { max_streams } => tell(Announced::Settings { max_streams }),
            Inside::Other => {}
        }
        self.inside = Inside::Header;
    }
}

/// Length, type, flags, stream.
const HEADER: usize = 9;

/// Identifier and value.
const SETTING: usize = 6;

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u8 = 3;

/// Clears the bit before the stream's number.
const RESERVED: u32 = 0x7FFF_FFFF;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8], cut: usize) -> Vec<Announced> {
        let (mut reader, mut told) = (FrameReader::default(), Vec::new());
        for piece in bytes.chunks(cut) {
            reader.read(piece, |announced| told.push(announced));
        }
        told
    }

    #[test]
    fn settings_and_goaway_are_found_wherever_the_bytes_are_cut() {
        let several = [setting(1, 3), setting(3, 7), setting(4, 65_535), setting(3, 9)].concat();
        let bytes = [
            frame(SETTINGS, 0, 0, &several),
            frame(SETTINGS, ACK, 0, &[]),
            // Data that looks like settings, and settings where there can be none.
            frame(0, 0, 1, &frame(SETTINGS, 0, 0, &setting(3, 1))),
            frame(SETTINGS, 0, 5, &setting(3, 2)),
            frame(GOAWAY, 0, 3, &[0; 8]),
            frame(0, 0, 1, &[]),
            frame(SETTINGS, 0, 0, &[]),
            frame(SETTINGS, 0, 0, &setting(0x103, 4)),
            frame(0, 0, 1, &[7; 20_000]),
            frame(SETTINGS, 0, 0x8000_0000, &setting(3, u32::MAX)),
            frame(GOAWAY, 0, 0, &[7; 13]),
            frame(SETTINGS, 0, 0, &setting(3, 0)),
        ]
        .concat();
        let settings = |max_streams| Announced::Settings { max_streams };
        let expected = [
            settings(Some(9)),
            settings(None),
            settings(None),
            settings(Some(u32::MAX)),
            Announced::GoAway,
            settings(Some(0)),
        ];
        for cut in (1..40).chain([1_000, 16_384, bytes.len()]) {
            assert_eq!(read(&bytes, cut), expected, "cut into {cut}");
        }
    }

    #[test]
    fn settings_of_an_impossible_length_upset_nothing() {
        let bytes = [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 5, 0, 3]), frame(GOAWAY, 0, 0, &[])];
        let told = [Announced::Settings { max_streams: Some(5) }, Announced::GoAway];
        for cut in 1..20 {
            assert_eq!(read(&bytes.concat(), cut), told, "cut into {cut}");
        }
    }

    #[test]
    fn what_is_no_http2_announces_nothing() {
        let text = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(100);
        assert!(read(&text, 7).is_empty());
    }
}

//! First bytes of connections: what is read of a ClientHello is what rustls reads, however it is
//! cut.
#![no_main]

use bartizan_net::{HelloError, HelloProgress, HelloReader, is_grease};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|bytes: &[u8]| {
    let whole = read([bytes], LIMIT);
    assert_eq!(read(bytes.chunks(1), LIMIT), whole, "byte by byte");
    // The input says how it is cut as well.
    let step = bytes.last().map_or(1, |last| usize::from(*last) + 1);
    assert_eq!(read(bytes.chunks(step), LIMIT), whole, "in steps of {step}");
    let short = usize::from(u16::from_le_bytes([*bytes.first().unwrap_or(&0), step as u8]));
    assert_eq!(read(bytes.chunks(step), short), read([bytes], short), "with the limit {short}");

    let hello = match whole {
        Ok(HelloProgress::Hello(hello)) => {
            let ja4 = hello.ja4();
            assert!(ja4.len() == 36 && ja4.is_ascii(), "{ja4}");
            assert!(hello.versions().len() > 0 && hello.cipher_suites().len() > 0);
            assert!(hello.extensions().filter(|code| is_grease(*code)).count() <= 16);
            Some(hello)
        }
        // It accepts longer records.
        Err(HelloError::RecordTooLong { .. } | HelloError::TooLong { .. }) => return,
        _ => None,
    };

    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    let accepted = loop {
        // It stops reading while it has a message to look at.
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) if unread.is_empty() => return,
            Ok(None) => {}
            Err(_) => return,
        }
        if !acceptor.read_tls(&mut unread).is_ok_and(|read| read > 0) {
            return;
        }
    };
    let theirs = accepted.client_hello();
    let hello = hello.expect("rustls accepts it");
    let name = theirs.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
    assert_eq!(hello.server_name(), name);
    assert!(hello.alpn().eq(theirs.alpn().into_iter().flatten()), "application protocols");
    let suites = theirs.cipher_suites().iter().map(|suite| u16::from(*suite));
    assert!(hello.cipher_suites().eq(suites), "cipher suites");
    let mut schemes = theirs.signature_schemes().iter().map(|scheme| u16::from(*scheme));
    let offered: Vec<_> = hello.signature_schemes().collect();
    assert!(schemes.all(|scheme| offered.contains(&scheme)), "signature schemes");
});

fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limit: usize,
) -> Result<HelloProgress, HelloError> {
    let mut reader = HelloReader::new(limit);
    let mut progress = HelloProgress::More;
    for piece in pieces {
        progress = reader.push(piece)?;
        if progress != HelloProgress::More {
            break;
        }
    }
    Ok(progress)
}

/// More than rustls reads.
const LIMIT: usize = 1 << 20;

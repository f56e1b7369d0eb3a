use proptest::prelude::*;

use super::*;
use crate::payload;

fn key(seed: u8) -> OrganizationKey {
    OrganizationKey::from_seed(&[seed; 32])
}

fn context() -> SealContext {
    SealContext {
        direction: Direction::Input,
        collaboration_id: CollaborationId::new(1),
        sender: OrganizationId::new(2),
        receiver: OrganizationId::new(3),
        nonce: Nonce::new([9; 16]),
    }
}

fn sealed(content: &[u8]) -> Vec<u8> {
    seal(&key(1), &key(2).public(), &context(), content).unwrap()
}

fn opened(bytes: &[u8]) -> Result<Vec<u8>, SealError> {
    open(&key(2), &key(1).public(), &context(), bytes)
}

/// The boundaries of the chunks of a sealed payload.
fn chunks(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut at = SEALED_MAGIC.len() + HANDSHAKE_BYTES;
    let mut chunks = Vec::new();
    while at < bytes.len() {
        let end = at + 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        chunks.push(at..end);
        at = end;
    }
    chunks
}

/// Sealed once by this code with `key(1)` to `key(2)` in `context()`: the form on the wire must stay readable.
#[test]
fn a_payload_sealed_by_an_earlier_release_still_opens() {
    let text = "iVRNUwGoB8PutST1QNGNgaMM1xXsnNx77uRqoJwg9j1Tfp9IWpPo6THSfdIiWhqovccfvFucQe0xid4+Z9FyQQmH08in41hFEE7E8VfMza2j15UEXT+eHMzmJs1mhwaXoP75tQcAJj0pjvcob08o/ASw7ViF+QQBV/5594Q0mrCVrkFVF9V27IHK8NM4";
    assert_eq!(opened(&payload::from_text(text).unwrap()).unwrap(), br#"{"method": "summary"}"#);
}

#[test]
fn every_length_around_the_chunk_size_opens_whole() {
    for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_000] {
        let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let bytes = sealed(&content);
        assert_eq!(bytes.len(), sealed_len(length), "{length}");
        assert_eq!(opened(&bytes).unwrap(), content, "{length}");
        let mut streamed = Vec::new();
        Opener::new(&bytes[..], &key(2), &key(1).public(), &context()).unwrap().read_to_end(&mut streamed).unwrap();
        assert_eq!(streamed, content, "{length}");
    }
}

#[test]
fn the_text_form_is_recognised_as_sealed() {
    assert_eq!(payload::classify(&payload::to_text(&sealed(b"x"))), payload::PayloadForm::Sealed);
}

#[test]
fn another_receiver_cannot_open() {
    let result = open(&key(3), &key(1).public(), &context(), &sealed(b"secret"));
    assert!(matches!(result, Err(SealError::CannotOpen)));
}

#[test]
fn another_sender_is_noticed() {
    let forged = seal(&key(4), &key(2).public(), &context(), b"forged").unwrap();
    assert!(matches!(opened(&forged), Err(SealError::OtherSender { .. })));
}

#[test]
fn no_part_of_the_context_can_be_swapped() {
    let bytes = sealed(b"secret");
    let swapped = [
        SealContext { direction: Direction::Result, ..context() },
        SealContext { collaboration_id: CollaborationId::new(2), ..context() },
        SealContext { sender: OrganizationId::new(9), ..context() },
        SealContext { receiver: OrganizationId::new(9), ..context() },
        SealContext { nonce: Nonce::new([8; 16]), ..context() },
    ];
    for context in swapped {
        let result = open(&key(2), &key(1).public(), &context, &bytes);
        assert!(matches!(result, Err(SealError::CannotOpen)), "{context:?}");
    }
}

#[test]
fn exchanged_repeated_dropped_and_appended_chunks_are_refused() {
    let bytes = sealed(&vec![5; 3 * CHUNK_BYTES]);
    let chunk = chunks(&bytes);
    assert_eq!(chunk.len(), 3);
    let head = &bytes[..chunk[0].start];
    let build = |order: &[usize]| {
        let mut result = head.to_vec();
        for &at in order {
            result.extend_from_slice(&bytes[chunk[at].clone()]);
        }
        result
    };
    assert!(opened(&build(&[0, 1, 2])).is_ok());
    for order in [&[1, 0, 2][..], &[0, 0, 1, 2], &[0, 2], &[0, 1], &[2], &[], &[0, 1, 2, 2]] {
        assert!(opened(&build(order)).is_err(), "{order:?}");
    }
}

proptest! {
    #[test]
    fn any_content_opens_to_itself(content in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(opened(&sealed(&content)).unwrap(), content);
    }

    #[test]
    fn any_flipped_bit_is_refused(
        content in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut bytes = sealed(&content);
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        prop_assert!(opened(&bytes).is_err());
    }

    #[test]
    fn any_cut_is_refused(content in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>()) {
        let bytes = sealed(&content);
        prop_assert!(opened(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let mut input = if magic { SEALED_MAGIC.to_vec() } else { Vec::new() };
        input.extend_from_slice(&bytes);
        prop_assert!(opened(&input).is_err());
    }
}

#[test]
fn an_anonymous_payload_and_one_with_a_sender_are_never_taken_for_each_other() {
    let anonymous = seal_anonymous(&key(2).public(), &context(), b"content").unwrap();
    assert_eq!(payload::classify(&payload::to_text(&anonymous)), payload::PayloadForm::Sealed);
    assert_eq!(open_anonymous(&key(2), &context(), &anonymous).unwrap(), b"content");
    assert!(opened(&anonymous).is_err());
    assert!(matches!(open_anonymous(&key(2), &context(), &sealed(b"content")), Err(SealError::CannotOpen)));
}

#[test]
fn an_anonymous_payload_opens_for_its_receiver_and_purpose_only() {
    let anonymous = seal_anonymous(&key(2).public(), &context(), &[7; 100_000]).unwrap();
    assert!(matches!(open_anonymous(&key(3), &context(), &anonymous), Err(SealError::CannotOpen)));
    let other = SealContext { direction: Direction::Result, ..context() };
    assert!(matches!(open_anonymous(&key(2), &other, &anonymous), Err(SealError::CannotOpen)));
    for at in [5, 60, 1000, anonymous.len() - 1] {
        let mut altered = anonymous.clone();
        altered[at] ^= 1;
        assert!(open_anonymous(&key(2), &context(), &altered).is_err(), "{at}");
        assert!(open_anonymous(&key(2), &context(), &anonymous[..at]).is_err(), "{at}");
    }
}

use std::future::pending;
use std::path::PathBuf;

use bartizan_testkit::{KeyType, Leaf, Minted, TestCa, TestDir};
use rustls::crypto::aws_lc_rs;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::*;
use crate::{UnixSigner, UnixSignerError};

fn mint(key: KeyType) -> (Minted, KeyId) {
    let minted = TestCa::new("test root").issue(Leaf::server("localhost").key(key));
    let key = aws_lc_rs::sign::any_supported_type(&minted.key_der()).unwrap();
    (minted, KeyId::of_spki(&key.public_key().unwrap()))
}

fn server_of(minted: &Minted) -> KeyServer {
    KeyServer::new().pem("site.key", minted.key_pem().as_bytes()).unwrap()
}

/// Serves on a socket in `dir` until it is aborted.
fn start(server: KeyServer, dir: &TestDir) -> (PathBuf, JoinHandle<Result<(), KeyServerError>>) {
    let path = dir.join("sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    (path, tokio::spawn(server.serve(listener, pending())))
}

fn tls13() -> Vec<u8> {
    [&[0x20; 64], &b"TLS 1.3, server CertificateVerify\0"[..], &[7; 32]].concat()
}

fn transcript() -> Vec<u8> {
    let mut message = vec![1, 0, 0, 40, 3, 3];
    message.resize(44, 0);
    message.push(2);
    message.resize(5_000, 0);
    message
}

async fn refusal(signer: &UnixSigner, request: SignRequest) -> SigningRefused {
    match signer.clone().oneshot(request).await {
        Err(UnixSignerError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[tokio::test]
async fn signs_what_tls_signs_again_and_again() {
    let (minted, id) = mint(KeyType::P256);
    let dir = TestDir::new();
    let (path, _task) = start(server_of(&minted), &dir);
    let signer = UnixSigner::new(path);
    for _ in 0..3 {
        let signed = signer.clone().oneshot(SignRequest::new(id, P256, tls13())).await.unwrap();
        assert_eq!(signed.0[0], 0x30, "a DER sequence");
    }
}

#[tokio::test]
async fn refuses_with_the_reason_and_goes_on() {
    let (minted, id) = mint(KeyType::Rsa2048);
    let dir = TestDir::new();
    let (path, _task) = start(server_of(&minted), &dir);
    let signer = UnixSigner::new(path).connections(1);
    let pss = SignatureScheme::RSA_PSS_SHA256;
    let refused = async |key, scheme, message: &[u8]| {
        refusal(&signer, SignRequest::new(key, scheme, message)).await
    };
    assert_eq!(refused(KeyId::from([0; 32]), pss, &tls13()).await, SigningRefused::UnknownKey);
    assert_eq!(refused(id, pss, b"a letter").await, SigningRefused::Content);
    assert_eq!(refused(id, P256, &tls13()).await, SigningRefused::Scheme);
    let pkcs1 = SignatureScheme::RSA_PKCS1_SHA256;
    assert_eq!(refused(id, pkcs1, &tls13()).await, SigningRefused::Scheme, "TLS 1.3 has no PKCS#1");
    assert_eq!(refused(id, pss, &transcript()[..100]).await, SigningRefused::Content);
    signer.oneshot(SignRequest::new(id, pss, tls13())).await.unwrap();
}

#[tokio::test]
async fn signs_transcripts_only_where_they_are_allowed() {
    let (minted, id) = mint(KeyType::P256);
    let request = || SignRequest::new(id, P256, transcript());
    let dir = TestDir::new();
    let (path, _task) = start(server_of(&minted).allow_tls12_client_auth(), &dir);
    UnixSigner::new(path).oneshot(request()).await.unwrap();
    assert_eq!(server_of(&minted).try_sign(&request()), Err(SigningRefused::Content));
}

#[tokio::test]
async fn processes_of_other_users_are_turned_away() {
    let (minted, id) = mint(KeyType::P256);
    let dir = TestDir::new();
    let other = own_uid().unwrap() + 1;
    let (path, _task) = start(server_of(&minted).allow_uid(other), &dir);
    let request = SignRequest::new(id, P256, tls13());
    assert_eq!(refusal(&UnixSigner::new(path), request).await, SigningRefused::Forbidden);
}

#[tokio::test]
async fn a_key_server_of_another_user_is_asked_nothing() {
    let dir = TestDir::new();
    let path = dir.join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let other = own_uid().unwrap() + 1;
    let signer = UnixSigner::new(path).expect_uid(other);
    let request = SignRequest::new(KeyId::from([0; 32]), P256, tls13());
    let error = signer.oneshot(request).await.unwrap_err();
    assert!(matches!(error, UnixSignerError::Impostor { expected, .. } if expected == other));
    let (mut connection, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    assert_eq!(connection.read_to_end(&mut bytes).await.unwrap(), 0);
}

#[test]
fn only_users_that_are_named_are_allowed() {
    assert!(is_allowed(&[1, 2], 2));
    assert!(!is_allowed(&[1, 2], 0), "the superuser as well has to be named");
    assert!(!is_allowed(&[], 0));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_that_it_is_busy() {
    let (minted, id) = mint(KeyType::P256);
    let dir = TestDir::new();
    let (path, _task) = start(server_of(&minted).max_connections(1), &dir);
    let request = || SignRequest::new(id, P256, tls13());
    let first = UnixSigner::new(&path);
    first.clone().oneshot(request()).await.unwrap();
    let second = UnixSigner::new(&path);
    assert_eq!(refusal(&second, request()).await, SigningRefused::Busy);
    first.oneshot(request()).await.unwrap();
}

#[tokio::test]
async fn a_key_server_that_was_started_again_is_found() {
    let (minted, id) = mint(KeyType::P256);
    let dir = TestDir::new();
    let (path, task) = start(server_of(&minted), &dir);
    let signer = UnixSigner::new(&path);
    let request = || SignRequest::new(id, P256, tls13());
    signer.clone().oneshot(request()).await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let error = signer.clone().oneshot(request()).await.unwrap_err();
    assert!(matches!(error, UnixSignerError::Connect { .. }), "{error:?}");
    let (_, _task) = start(server_of(&minted), &dir);
    signer.oneshot(request()).await.unwrap();
}

#[tokio::test]
async fn a_request_may_come_in_pieces() {
    let (minted, id) = mint(KeyType::P256);
    let dir = TestDir::new();
    let (path, _task) = start(server_of(&minted), &dir);
    let mut connection = UnixStream::connect(path).await.unwrap();
    for byte in wire::request(&SignRequest::new(id, P256, tls13())).unwrap() {
        connection.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut head = [0; 4];
    connection.read_exact(&mut head).await.unwrap();
    assert_eq!((head[0], head[3]), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_broken_too_long_or_too_slow_ends_the_connection() {
    let (minted, _) = mint(KeyType::P256);
    let dir = TestDir::new();
    let (path, _task) = start(server_of(&minted), &dir);
    for bytes in [&[2, 0, 0][..], &[1, 0xff, 0xff], &[1, 0, 3, 1, 2, 3], &[1, 0]] {
        let mut connection = UnixStream::connect(&path).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // The last has not sent all that it announced: paused time goes on to the limit.
        let _ = connection.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_server_that_does_not_answer_is_given_up() {
    let dir = TestDir::new();
    let path = dir.join("sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let request = SignRequest::new(KeyId::from([0; 32]), P256, tls13());
    let error = UnixSigner::new(path).oneshot(request).await.unwrap_err();
    assert!(matches!(error, UnixSignerError::Late { .. }), "{error:?}");
}

#[tokio::test]
async fn a_shutdown_ends_idle_connections() {
    let (minted, id) = mint(KeyType::P256);
    let dir = TestDir::new();
    let path = dir.join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (end, ending) = tokio::sync::oneshot::channel::<()>();
    let server = server_of(&minted);
    let serving = tokio::spawn(server.serve(listener, async { drop(ending.await) }));
    let signer = UnixSigner::new(path);
    signer.oneshot(SignRequest::new(id, P256, tls13())).await.unwrap();
    end.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_key_it_does_not_serve() {
    let dir = TestDir::new();
    let listener = UnixListener::bind(dir.join("sock")).unwrap();
    let error = KeyServer::new().serve(listener, pending()).await.unwrap_err();
    assert!(matches!(error, KeyServerError::NoKey));
    assert!(KeyServer::new().pem("site.pem", b"").is_err());
}

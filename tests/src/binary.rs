//! Building the program under test.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The path of the `proxy` example, built on the first call of each test binary.
///
/// Its target directory and profile are those of the running test. It is built with `--workspace`,
/// so that it shares what `cargo test --workspace` has built. With `BARTIZAN_PROXY` in the
/// environment, that program is tested instead and nothing is built.
///
/// # Panics
///
/// If it cannot be built; what the compiler says goes to standard error.
pub fn proxy_binary() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| env::var_os("BARTIZAN_PROXY").map_or_else(|| build("proxy"), PathBuf::from))
        .clone()
}

/// The path of the example `name`, built in the same way on the first call of each test binary.
///
/// # Panics
///
/// If it cannot be built; what the compiler says goes to standard error.
pub fn example_binary(name: &str) -> PathBuf {
    static PATHS: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let paths = paths.get_or_insert_default();
    paths.entry(name.to_owned()).or_insert_with(|| build(name)).clone()
}

fn build(example: &str) -> PathBuf {
    // TARGET/PROFILE/deps/TEST
    let test = env::current_exe().unwrap();
    let mut folders = test.ancestors().skip(2);
    let profile = folders.next().and_then(|folder| folder.file_name()?.to_str()).unwrap();
    let target = folders.next().unwrap();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["build", "--workspace", "--message-format=json", "--example", example])
        .args(["--profile", if profile == "debug" { "dev" } else { profile }])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "the example {example} does not build:\n{messages}");
    // The example is the only thing with an executable, which is a string without escapes.
    let (_, path) = messages.rsplit_once(r#""executable":""#).unwrap();
    PathBuf::from(path.split('"').next().unwrap())
}

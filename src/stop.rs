//! When a process that serves shall stop.

use std::io::Read as _;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Ends at an interrupt or a request to terminate; with `with_stdin` also when standard input ends:
/// a process that was started with a pipe as its input then never outlives its starter, however that
/// one ends.
///
/// # Errors
/// When signals cannot be had.
pub(crate) fn requested(with_stdin: bool) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (over, input_over) = oneshot::channel();
    let mut never = Some(over);
    if with_stdin && let Some(over) = never.take() {
        // A thread of its own: a read of standard input cannot be given up.
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(1..) = std::io::stdin().lock().read(&mut buffer) {}
            // Nobody waits any more: the process is stopping already.
            over.send(()).ok();
        })?;
    }
    Ok(async move {
        // Kept: a channel whose other end is gone would be a reason to stop.
        let _never = never;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = input_over => (),
        }
    })
}

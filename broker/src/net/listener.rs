//! Accepts native connections.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use super::{
    connection::{Bounds, Handler, serve},
    room,
};
use crate::{metrics as names, runtime::tasks::Tasks};

/// Connections that have not said who they are; when there are so many, the oldest goes for the next.
pub(super) const HANDSHAKES_MAX: usize = 1024;
/// After an error of accept (no descriptors left), which would repeat at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for ever, each in a task of its own.
pub(crate) async fn listen<H: Handler>(listener: TcpListener, handler: Arc<H>, bounds: Arc<Bounds>, tasks: Tasks) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = bounds.drain.cancelled() => return,
        };
        let shaking_hands = match Arc::clone(&handshakes).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                bounds.strangers.clear();
                let Ok(place) = Arc::clone(&handshakes).acquire_owned().await else { return };
                place
            }
        };
        let admitted = accepted.and_then(|(stream, remote)| {
            let admitted = room::admit(stream, bounds.descriptors);
            if admitted.is_err() {
                counter!(names::CONNECTIONS_REFUSED.name, "reason" => "descriptors").increment(1);
            }
            Ok((admitted?, remote))
        });
        match admitted {
            Ok((stream, remote)) => {
                tasks.spawn(serve(stream, remote, Arc::clone(&handler), Arc::clone(&bounds), shaking_hands));
            }
            Err(error) => {
                tracing::warn!(%error, "listener.accept.failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

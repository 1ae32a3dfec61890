//! The lease in a real container: the file of the drone is seen by init, and nothing that the application does about
//! either lets it live on. Not its business: what the agent does.

use std::time::Duration;

use jetway_drone::runtime::{LineEvent, Runtime};
use jetway_protocol::ids::SlotId;
use jetway_protocol::init::{EXIT_LEASE_OVER, FromInit, Session, SessionLease, ToInit};
use jetway_protocol::lease::Deadline;
use jetway_service::clock;

use crate::support::{Bed, DEADLINE, event, on_docker, session, until_ready};

/// As the agent writes it.
fn gone_in(bed: &Bed, left: Duration) {
    let deadline = Deadline { boot_id: clock::boot_id().unwrap(), gone_by: clock::boot_time() + left };
    let directory = bed.config.run_dir.join("lease");
    std::fs::write(directory.join("new"), deadline.to_string()).unwrap();
    std::fs::rename(directory.join("new"), directory.join(Deadline::FILE_NAME)).unwrap();
}

#[tokio::test]
async fn an_application_that_tries_to_trace_or_kill_init_or_to_change_its_deadline() {
    on_docker(
        |_| (),
        |bed| async move {
            for user in ["0:0", "1000:1000"] {
                gone_in(&bed, Duration::from_secs(1000));
                let mut request = bed.request(&["attack"]);
                request.executable.user = Some(user.to_owned());
                let backend = request.backend.clone().unwrap();
                let mut parked = bed.park(request).await;
                let boot_id = clock::boot_id().unwrap();
                let lease = Some(SessionLease { boot_id, grace_ms: 1000, stop_signal: 15 });
                let session = Session { lease, ..session(&backend, parked.address) };
                parked.line.commands.send(ToInit::Session(Box::new(session))).await.unwrap();
                until_ready(&mut parked.line).await;

                parked.line.commands.send(ToInit::Ping).await.unwrap();
                assert_eq!(event(&mut parked.line).await, LineEvent::Message(FromInit::Pong), "{user}");
                let said = said_of_six(&bed, parked.slot).await;
                assert!(!said.contains("done"), "{user}: {said}");

                gone_in(&bed, Duration::from_secs(2));
                parked.line.commands.send(ToInit::LookAtLease).await.unwrap();
                drop(parked.line);
                assert_eq!(bed.ended(parked.slot).await, (EXIT_LEASE_OVER, false), "{user}");
            }
        },
    )
    .await;
}

/// What the application says of each of its attempts; the engine's log comes a little behind.
async fn said_of_six(bed: &Bed, slot: SlotId) -> String {
    let look = async {
        loop {
            let said = bed.runtime.output_tail(slot, 4096).await.unwrap();
            if said.lines().count() >= 6 {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.expect("the application says what it tried")
}

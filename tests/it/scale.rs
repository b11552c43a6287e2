//! Many sessions of one endpoint: nobody is starved, and nobody is lost for having nothing to do.

use std::time::Duration;

use kwik_tests::{
    run_for,
    scale::{Server, clients, feed},
};

const IDLE: usize = 200;
const BUSY: usize = 50;
/// Bytes that each of the busy ones is to be given: twice what a window lets it have at once.
const LEAST: u64 = 512 * 1024;
/// How much more the average may be given until the last one has that. In so short a time chance has a large part in it; who is
/// starved never has it.
const AHEAD: u64 = 8;

/// The program `scale` does the same with thousands; it is bytes that are compared here, and no time.
#[test]
fn busy_sessions_among_idle_ones_are_all_served() {
    run_for(Duration::from_secs(120), async {
        let server = Server::start().unwrap();
        let (address, root) = (server.address().unwrap(), server.root().to_vec());
        let clients = tokio::spawn(async move { clients(address, &root, IDLE + BUSY).await });
        let sessions = server.accept(IDLE + BUSY).await.unwrap();
        let shares = feed(sessions.iter().step_by((IDLE + BUSY) / BUSY));
        let given = loop {
            let given = shares.read();
            if given.iter().all(|&share| share >= LEAST) {
                break given;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(given.len(), BUSY);
        let average = given.iter().sum::<u64>() / BUSY as u64;
        assert!(average < AHEAD * LEAST, "some are starved: {given:?}");
        assert!(sessions.iter().all(|session| session.close_reason().is_none()));
        clients.abort();
    });
}

//! What one sidecar does for all of the account: whoever has the lead.

use std::sync::Weak;

use crate::account::Account;
use crate::account::lead::{Lead, Term};

impl Account {
    /// Runs `work` in every term in which we lead, until the account is left. The work is dropped when the lead is lost.
    pub(in crate::account) async fn lead<W: Future<Output = ()>>(
        account: Weak<Self>,
        lead: Lead,
        name: &str,
        work: impl Fn(Term) -> W,
    ) {
        let Some(strong) = account.upgrade() else { return };
        let mut leaving = strong.is_leaving.subscribe();
        drop((strong, account));
        let mut term = lead.candidacy().term();
        let is_over = async { leaving.wait_for(|leaving| *leaving).await.map(|_| ()) };
        let led = async {
            loop {
                let Ok(Some(number)) = term.wait_for(Option::is_some).await.map(|term| *term) else { return };
                tracing::info!(term = number, "this sidecar keeps the {name}");
                let is_lost = term.wait_for(|term| *term != Some(number));
                tokio::select! {
                    _ = is_lost => tracing::info!(term = number, "another sidecar keeps the {name}"),
                    () = work(Term(number)) => return,
                }
            }
        };
        tokio::select! {
            _ = is_over => {}
            () = led => {}
        }
        lead.give_up().await;
    }
}

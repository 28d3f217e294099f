//! What one sidecar of the account does at a time: whoever has the lead.

use std::sync::Weak;

use crate::account::Account;

impl Account {
    /// Stands for the lead in `name`, and runs `work` in every term of ours, until the account closes. The work is dropped
    /// when the lead is lost.
    pub(in crate::account) async fn campaign<W: Future<Output = ()>>(
        account: Weak<Self>,
        name: &str,
        work: impl Fn(u64) -> W,
    ) {
        let Some(strong) = account.upgrade() else { return };
        let candidacy = strong.store.nodes().campaign(name);
        let mut closing = strong.is_closing.subscribe();
        drop((strong, account));
        let mut term = candidacy.term();
        let is_over = async { closing.wait_for(|closing| *closing).await.map(|_| ()) };
        let lead = async {
            loop {
                let Ok(Some(number)) = term.wait_for(Option::is_some).await.map(|term| *term) else { return };
                tracing::info!(term = number, "this sidecar keeps the {name}");
                let is_lost = term.wait_for(|term| *term != Some(number));
                tokio::select! {
                    _ = is_lost => tracing::info!(term = number, "another sidecar keeps the {name}"),
                    () = work(number) => return,
                }
            }
        };
        tokio::select! {
            _ = is_over => {}
            () = lead => {}
        }
        candidacy.resign().await;
    }
}

//! Progress on its way to the store: one write at a time for each connection, as `connection/durable.rs` of the sidecar
//! does it.

use mqtt_session::{Input, Progress, ProgressVersion, Save};

use super::world::World;

/// A progress on its way to the store.
#[derive(Debug)]
pub(crate) struct Saving {
    pub(super) connection: u64,
    client: usize,
    epoch: u64,
    version: ProgressVersion,
    progress: Progress,
    is_last: bool,
    was_taken: Option<bool>,
}

impl World {
    pub(super) fn begin_save(&mut self) {
        let Some(id) = self.some_connection() else { return };
        let tail = self.connections.get(&id).map_or(0, |c| self.nodes[c.node].tail);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.is_saving || !connection.session.is_durable() {
            return;
        }
        let is_due = match connection.session.save() {
            Save::Now => true,
            Save::Lazily => self.step >= self.config.steps || self.random.once_in(8),
            Save::No => false,
        };
        if !is_due && !connection.is_over {
            return;
        }
        connection.pass_what_is_read(tail);
        let (version, progress) = connection.session.progress();
        connection.is_saving = true;
        let (client, epoch, is_last) = (connection.client, connection.epoch, connection.is_over);
        self.saves.push(Saving { connection: id, client, epoch, version, progress, is_last, was_taken: None });
    }

    /// A save arrives at the store, or its answer at the sidecar; an answer that is lost makes it arrive again.
    pub(super) fn go_on_saving(&mut self) {
        if self.saves.is_empty() {
            return;
        }
        let at = self.random.below(self.saves.len());
        let saving = &mut self.saves[at];
        let Some(was_taken) = saving.was_taken else {
            let was_taken = self.store.save(saving.client, saving.epoch, &saving.progress);
            if was_taken && saving.is_last {
                self.witness.saved_at_end(saving.client, saving.epoch);
            }
            trace!(self, "{saving:?} was taken: {was_taken}");
            saving.was_taken = Some(was_taken);
            return;
        };
        if self.random.once_in(10) {
            saving.was_taken = None;
            return;
        }
        let saving = self.saves.swap_remove(at);
        let Some(connection) = self.connections.get_mut(&saving.connection) else { return };
        connection.is_saving = false;
        if saving.is_last || !was_taken {
            self.remove(saving.connection);
        } else if !connection.is_over {
            connection.tell(Input::Saved(saving.version));
        }
    }
}

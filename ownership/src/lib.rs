//! Who owns a session, who writes it, who hands it over and who publishes its will: one state machine for each event in
//! the life of a session. A machine is told what the store answered and what happened meanwhile, and says what to do next.
//! It does no I/O and has no clock.
//!
//! - [`Claim`]: a CONNECT makes its connection the owner
//! - [`Amend`]: the owner writes its record
//! - [`Leave`]: a connection has ended and puts its session in order
//! - [`Failover`]: a session is put in order whose connection is gone, or whose will is due
//! - [`Arrival`]: which of two connections came later
//! - [`State`]: what of a session's record decides about ownership
//! - [`Tenure`]: the lease of a node: whether others may take its sessions without asking
//!
//! **Invariant:** whoever gives up a claim before it has written leaves the session as it found it. Whoever gives up later
//! says what was there before: [`Left`].
//!
//! **Invariant:** a write in doubt stays in doubt until the record itself tells. A refusal of a write, the loss of its
//! answer and an answer of somebody who knows less than we do prove nothing: see `pen`.
//!
//! **Invariant:** a will is marked in the record before it is published, and its mark leaves the record behind its
//! publication only.
//!
//! Not here: how records are stored, progress of a session, connections, and pauses between tries, which are the driver's.

mod amend;
mod arrival;
mod claim;
mod failover;
mod finish;
mod leave;
mod pen;
mod state;
mod step;
mod tenure;
mod time;

pub use self::amend::{Amend, AmendOutcome};
pub use self::arrival::{Arrival, ArrivalPlace};
pub use self::claim::{Claim, ClaimOutcome, Claimed, GivenUp, Left, Request, Restored, Stop};
pub use self::failover::{Failover, FailoverOutcome};
pub use self::leave::{Leave, LeaveOutcome};
pub use self::state::{
    Due, Epoch, FormerWill, HANDOVER_NODES_MAX, NEVER, NodeId, Rest, Revision, State, Trace, WILL_PATIENCE_S, Will,
    WillState,
};
pub use self::step::{Input, Output, Step, WillOutcome};
pub use self::tenure::{Found, Moment, PutNumber, Standing, Tenure, TenureInput, TenureStep, TenureTimes};
pub use self::time::{Now, ServerTime};

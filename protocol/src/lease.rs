//! The lease: when a drone that is cut off must have ended what holds keys, and when a controller may give those keys
//! away. Pure decisions; whoever calls says what time it is. Sockets, files, clocks and SQL are not its business.
//!
//! This page is the specification that controller, drone and init follow. `tests/model/` checks it exhaustively for
//! small sizes, with these very functions; `docs/decisions/0004-lease.md` has each rule's reason.
//!
//! | file | for | decides |
//! |---|---|---|
//! | [`LeaseTerms`] | all | length, margin, grace; on the wire in `Registered`, in `Heartbeat`, in the drone's row |
//! | [`DroneLease`] | drone | until when keyed backends may live, and whether another may be taken |
//! | [`Watch`] | controller | whether one number was watched, unchanged, for the length and the margin |
//! | [`Deadline`], [`LastWord`] | drone → init | the file with the drone's deadline, and what init makes of it |
//! | [`heed`], [`absence`], [`released`], [`put_back`] | controller, drone | which words count, and what frees a key |
//! | [`number`], [`TimelineWatch`] | controller | terms and fencing tokens that never come again |
//! | [`denial`] | drone | when a `PUT` is refused for good, and when only put off |
//! | [`sent_again`], [`is_renewed`], [`is_over`], [`is_refused`], [`Below`] | Postgres | the same rules as its statements |
//! | [`registration`] | controller | whether a host is the drone it says it is, and whether it was booted anew |
//!
//! # Clocks
//! A duration is measured by one machine on CLOCK_BOOTTIME. Two machines' clocks are never compared; each is believed
//! to run within one part in [`CLOCK_RATE_PARTS`] of true time, which is the most that chrony slews one by default.
//!
//! # The drone
//! 1. *Before* it sends a register or a heartbeat it reads its clock: `sent_at`. Each send has a number of its own
//!    ([`DroneLease::next_renewal`]), a retry too. Only a 2xx counts: [`DroneLease::registered`],
//!    [`DroneLease::acknowledged`]; what arrives late counts from `sent_at` all the same.
//! 2. After each of these it writes the file ([`DroneLease::deadline`]; temporary name, then rename), and *then* acts on
//!    the reply. A registration can make the lease shorter, so no heartbeat of the new term leaves before the file is
//!    written. After a mere renewal a file that cannot be written only says a time that is too early.
//! 3. It acts on [`DroneLease::standing`] of each keyed backend that says `on_isolation: stop`, whatever its agent was
//!    busy with: at `Stop` the stop signal, at `Gone` a kill. After a pause it looks before it does anything else.
//! 4. It takes a keyed `PUT` only while [`DroneLease::admits`]; otherwise `unavailable`. It looks once more before
//!    it hands the session to init; and init looks in the file before it executes anything ([`LastWord::admits`]).
//! 5. A restarted agent goes on with the file's deadline ([`DroneLease::resume`]) until it has registered.
//! 6. A command counts as [`heed`] says. `NotYet` (a later term than its own) is `unavailable` and makes it register again.
//!    A final refusal of a `PUT` leaves a tombstone, as an end and a delete do: a second copy of it may be on its way. None is said
//!    of a backend that lives here, whatever the command's term. `unavailable` refuses nothing; a `PUT` that says `or_never` gets a
//!    final refusal instead. An agent that does not serve yet keeps those in memory: a later one has a term that is newer than theirs.
//! 7. Inventories, and answers to deletes, are given only when every init was asked, or has had 10 s.
//! 8. With each grant that it takes for a keyed backend that says `on_isolation: stop` it says whether [`DroneLease::admits`] is true
//!    as it says so: then it holds the key. What was written in any row says no more (`docs/decisions/0008-held-keys.md`).
//!
//! # The controller
//! 1. Registration is a compare-and-set: `Register` says which seat it replaces ([`Replaces`]), and [`registration`] refuses all
//!    others with the present one. A register that was delayed, or of an earlier boot, changes nothing.
//! 2. A heartbeat is acknowledged only if its row was in the statement's `returning`: `where term = $t and renewal < $n`. One
//!    that was skipped (locked) is sent in the next tick or answered 503. It carries the [`LeaseTerms`] that the drone counts by,
//!    and the row takes them over with it. A registration may only lengthen the row's terms.
//! 3. A tick of the watch is one transaction that *writes* (its turn) and reads `id, term, renewal, terms` and the timeline
//!    (`pg_walfile_name(pg_current_wal_insert_lsn())`, eight digits; `pg_control_checkpoint()` lags after a promotion). `now` is read
//!    *after* its answer. Without the write, a Postgres that can only be read looks like silent drones. Any failure of
//!    Postgres, in a tick or in a heartbeat, is [`Watches::interrupted`].
//! 4. The end of a lease is one statement, `where term = $t and renewal = $n` and on the same timeline; it gives the drone a
//!    *new term* and marks the lease as over. Nothing is placed on a drone whose lease is over. After that, every live row of an
//!    older term that [`released`] frees is ended, by a reconciler that goes on doing so: a row may have been inserted
//!    meanwhile.
//! 5. A `PUT` carries the term in its *row*. To send one under a later term, the statement that claims the row for dispatch moves
//!    the row to that term (`drone_term = d.term`, only while it is live); so the reconciler of 4 cannot end it meanwhile. A row is
//!    never moved to the term of a drone whose lease is over: nothing would ever free it.
//! 6. A final refusal ends a row only if it answered the only `PUT` that was ever sent for it, not counting those that the drone
//!    itself put off with `unavailable`: its tombstone stops their copies. So does a connection that was never made, where none was
//!    put off before. After a timeout, or a 5xx of something between, only the drone's own "gone" does, or the lease.
//! 7. Terms and fencing tokens are [`number`]s: the timeline is in their high bits. A heartbeat in a term of an earlier timeline is
//!    answered 409, so after a failover every drone registers anew, and a `PUT` whose row was lost is of a term that is over.
//! 8. After a change of timeline, unless the standby was synchronous, no absent key is granted for length and margin: the
//!    installation's row says on which timeline absent keys are granted, the inserting statement compares it with the present one,
//!    and a controller moves it on as [`TimelineWatch::unsettled_for`] says. That every drone in the table has reported is not
//!    enough: the drone whose registration was lost is not in it. What reports meanwhile is put back, and served; a drone whose
//!    inventory was not compared in its term is not renewed meanwhile, so that what has no row ends with its lease.

mod deadline;
mod drone;
mod evidence;
mod refusal;
mod register;
mod rows;
mod terms;
mod timeline;
mod watch;

pub use deadline::{Deadline, InvalidDeadline, LastWord};
pub use drone::{DroneLease, Standing};
pub use evidence::{Absence, Evidence, Heed, Holding, PutBack, absence, heed, put_back, released};
pub use refusal::{Denial, Objection, denial};
pub use register::{Claim, Known, Replaces, Verdict as RegistrationVerdict, registration};
pub use rows::{Below, is_over, is_refused, is_renewed, sent_again};
pub use terms::{CLOCK_RATE_PARTS, InvalidTerms, LENGTH_DEFAULT, LENGTH_MAX, LENGTH_MIN, LeaseTerms};
pub use timeline::{TimelineWatch, number, timeline_of, timeline_of_wal_file};
pub use watch::{Reading, Seat, Verdict, Watch, Watches};

//! Who may start and end what, without any clock: two drones, rows, `PUT`s, deletes, inventories, reports, terms.
//!
//! One key. Each attempt to serve it is a row with an id of its own. That a lease is over only when its drone has ended what
//! it held is what `lease.rs` shows; here it is one step. Every message may be lost, late, overtaken and delivered twice.
//!
//! Product: `lease::{heed, denial, released, absence, put_back}`. The statements that claim a row
//! for dispatch, end a refused one, and end those of terms that are over are
//! `lease::{sent_again, is_refused, Below}`, which `controller/src/db/rule_tests.rs` compares with the
//! SQL. Copies: the order in which a drone looks for reasons against a `PUT`
//! (`drone/src/http/backends.rs`), and what it remembers before it has a term
//! (`drone/src/http/gate.rs`).

mod drone;
mod runs;
mod state;

use jetway_protocol::ids::{FencingToken, Term};
use jetway_protocol::lease::{
    Absence, Evidence, Holding, PutBack, absence, is_refused, put_back, sent_again,
};
use stateright::{Model, Property};

use self::drone::LAST_TERM;
use self::state::{Action, Message, Put, Row, Sender, State, Why};

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    RetargetAfterTimeout,
    AbsenceIsDeath,
    NoTombstones,
    NoTombstoneAtRefusal,
    UnknownTermIsFinal,
    RefusalOfAnyPut,
    RowKeepsItsTerm,
    LapsedDroneAdmits,
    AnyTermIsHeeded,
    FinalWhileItRuns,
    PutOffFreesTheKey,
    DeclinesAndForgets,
}

struct Dispatch {
    mistake: Mistake,
    /// Rows, at most.
    attempts: u8,
    /// Messages on the way at one time.
    network: usize,
    copies: u8,
    restarts: u8,
    lapses: u8,
    reboots: u8,
    put_offs: u8,
}

impl Dispatch {
    fn usual(mistake: Mistake) -> Self {
        Self { mistake, attempts: 2, network: 3, copies: 0, restarts: 0, lapses: 0, reboots: 0, put_offs: 0 }
    }

    fn connect(&self, state: &mut State, drone: usize) {
        let id = u8::try_from(state.rows.len()).expect("few rows");
        let term = state.seats[drone].term;
        state.rows.push(Row {
            drone,
            term,
            acknowledged: false,
            puts: 1,
            put_off: false,
            sender: Sender::Connect,
            ended: None,
        });
        state.send(Message::Put(Put { id, drone, term, by: Sender::Connect, or_never: false }));
    }

    /// Claims the row for dispatch, which moves it to its drone's present term, and sends its `PUT` once more.
    fn put_again(&self, state: &mut State, id: u8) {
        let Some(moved) = self.sent_again(state, id) else { return };
        let row = &mut state.rows[usize::from(id)];
        let (drone, term) = (row.drone, moved.row_term);
        row.puts = moved.puts_sent.min(2);
        if self.mistake != Mistake::RowKeepsItsTerm {
            row.term = term;
        }
        state.send(Message::Put(Put { id, drone, term, by: Sender::Reconciler, or_never: false }));
    }

    fn sent_again(&self, state: &State, id: u8) -> Option<Holding> {
        let (mut row, below) = (state.holding(id), state.below(state.rows[usize::from(id)].drone));
        if self.mistake == Mistake::RowKeepsItsTerm {
            row.row_term = row.drone_term;
        }
        sent_again(&row, below)
    }

    fn delete(&self, state: &mut State, id: u8) {
        let drone = state.rows[usize::from(id)].drone;
        state.send(Message::Delete { id, drone, term: state.seats[drone].term });
    }

    fn timed_out(&self, state: &mut State, id: u8) {
        state.rows[usize::from(id)].sender = Sender::Reconciler;
        if self.mistake == Mistake::RetargetAfterTimeout {
            state.rows[usize::from(id)].ended = Some(Why::Refused);
        }
    }

    fn answered(&self, state: &mut State, id: u8, by: Sender, taken: bool) {
        let mut holding = state.holding(id);
        let row = &mut state.rows[usize::from(id)];
        if row.ended.is_some() {
            return;
        }
        if taken {
            row.acknowledged = true;
            return;
        }
        if self.mistake == Mistake::RefusalOfAnyPut {
            holding.puts_sent = 1;
        }
        let is_only_sender = row.sender == by || self.mistake == Mistake::RefusalOfAnyPut;
        if is_refused(&holding, is_only_sender) {
            row.ended = Some(Why::Refused);
        }
    }

    /// The connect goes on, and would rather be refused for good the next time.
    fn heard_put_off(&self, state: &mut State, id: u8) {
        let row = &mut state.rows[usize::from(id)];
        if row.ended.is_some() || row.acknowledged || row.sender != Sender::Connect || row.put_off {
            return;
        }
        if self.mistake == Mistake::PutOffFreesTheKey {
            row.ended = Some(Why::Refused);
            return;
        }
        row.put_off = true;
        let (drone, term) = (row.drone, row.term);
        state.send(Message::Put(Put { id, drone, term, by: Sender::Connect, or_never: true }));
    }

    fn heard_gone(&self, state: &mut State, id: u8, term: Term) {
        state.end(id, Evidence::DroneSaysGone { term }, Why::Gone);
    }

    fn compare(&self, state: &mut State, drone: usize, term: Term, running: u8) {
        if state.seats[drone].term != term {
            return;
        }
        for id in 0..u8::try_from(state.rows.len()).expect("few rows") {
            let row = &state.rows[usize::from(id)];
            let (here, runs) = (row.drone == drone, running & (1 << id) != 0);
            let lives = row.ended.is_none();
            if here && lives && !runs {
                if self.mistake == Mistake::AbsenceIsDeath {
                    state.rows[usize::from(id)].ended = Some(Why::Gone);
                } else if absence(row.term, row.acknowledged, term) == Absence::AskToDelete {
                    state.send(Message::Delete { id, drone, term });
                }
            } else if here && !lives && runs {
                self.stranger(state, id, drone, term);
            }
        }
    }

    /// It runs, and has no live row.
    fn stranger(&self, state: &mut State, id: u8, drone: usize, term: Term) {
        let token = |id: u8| FencingToken(i64::from(id));
        let holder = state.live();
        match put_back(token(id), holder.map(token)) {
            PutBack::Delete => state.send(Message::Delete { id, drone, term }),
            PutBack::Own => {}
            PutBack::Insert | PutBack::Supersede => {
                if let Some(holder) = holder {
                    state.rows[usize::from(holder)].ended = Some(Why::Superseded);
                }
                let row = &mut state.rows[usize::from(id)];
                (row.ended, row.term, row.acknowledged) = (None, term, true);
            }
        }
    }

    fn actions_of_controllers(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(id) = state.live() else {
            if state.rows.len() < usize::from(self.attempts) && self.has_room(state) {
                // The drones are alike: the first row is always on the first one.
                let drones = if state.rows.is_empty() { 0..1 } else { 0..2 };
                let placeable = drones.filter(|drone| !state.seats[*drone].is_over);
                actions.extend(placeable.map(Action::Connect));
            }
            return;
        };
        let row = &state.rows[usize::from(id)];
        match row.sender {
            Sender::Connect if !row.acknowledged => actions.push(Action::TimesOut(id)),
            Sender::Reconciler if self.has_room(state) && self.sent_again(state, id).is_some() => {
                actions.push(Action::PutAgain(id));
            }
            Sender::Connect | Sender::Reconciler => {}
        }
        if self.has_room(state) && (row.acknowledged || row.sender == Sender::Reconciler) {
            actions.push(Action::Delete(id));
        }
        actions.push(Action::EndForItsDrone(id));
    }

    fn has_room(&self, state: &State) -> bool {
        state.network.len() < self.network
    }
}

impl Model for Dispatch {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.copies, self.restarts, self.lapses, self.reboots, self.put_offs)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.actions_of_controllers(state, actions);
        for drone in 0..state.agents.len() {
            self.actions_of_a_drone(state, drone, actions);
        }
        for message in &state.network {
            actions.push(Action::Deliver(message.clone()));
            if !matches!(message, Message::Registered { term: LAST_TERM, .. }) {
                actions.push(Action::Lose(message.clone()));
            }
            if let Message::Put(_) = message {
                actions.push(Action::Refuse(message.clone()));
            }
            if state.copies > 0 {
                actions.push(Action::DeliverACopy(message.clone()));
                if let Message::Put(_) = message {
                    actions.push(Action::RefuseACopy(message.clone()));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Connect(drone) => self.connect(&mut state, drone),
            Action::TimesOut(id) => self.timed_out(&mut state, id),
            Action::PutAgain(id) => self.put_again(&mut state, id),
            Action::Delete(id) => self.delete(&mut state, id),
            Action::EndForItsDrone(id) => state.end_for_its_drone(id),
            Action::Deliver(message) => {
                state.network.remove(&message);
                self.deliver(&mut state, &message, false);
            }
            Action::Refuse(message) => {
                state.network.remove(&message);
                self.deliver(&mut state, &message, true);
            }
            Action::DeliverACopy(message) => {
                state.copies -= 1;
                self.deliver(&mut state, &message, false);
            }
            Action::RefuseACopy(message) => {
                state.copies -= 1;
                self.deliver(&mut state, &message, true);
            }
            Action::Lose(message) => {
                state.network.remove(&message);
            }
            Action::OfDrone(drone, step) => self.step(&mut state, drone, step),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn again_after(state: &State, why: Why) -> bool {
            state.rows[..state.rows.len().saturating_sub(1)].iter().any(|row| row.ended == Some(why))
                && state.processes() == 1
        }
        let mut all = vec![
            Property::always("one process", |_, state: &State| state.processes() <= 1),
            Property::sometimes("a refused key is served elsewhere", |_, state| {
                again_after(state, Why::Refused)
            }),
            Property::sometimes("an ended key is served again", |_, state| again_after(state, Why::Gone)),
        ];
        if self.lapses > 0 {
            all.push(Property::sometimes("a key whose lease is over is served elsewhere", |_, state| {
                again_after(state, Why::LeaseOver)
            }));
        }
        if self.reboots > 0 {
            all.push(Property::sometimes("a key whose host was booted anew is served again", |_, state| {
                again_after(state, Why::NewBoot)
            }));
        }
        all
    }
}

impl Dispatch {
    fn deliver(&self, state: &mut State, message: &Message, refuse: bool) {
        match *message {
            Message::Put(put) => self.put(state, put, refuse),
            Message::Delete { id, drone, term } => self.deleted(state, id, drone, term),
            Message::Answer { id, by, taken } => self.answered(state, id, by, taken),
            Message::PutOff { id } => self.heard_put_off(state, id),
            Message::Gone { id, term } => self.heard_gone(state, id, term),
            Message::Inventory { drone, term, running } => self.compare(state, drone, term, running),
            Message::Registered { drone, term } => state.registered(drone, term),
        }
    }
}

//! Runs the checker on a model, and says what it did: sizes, states, seconds; or the way to a violation.
//!
//! One thread each: the test runner runs the models beside each other.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// Explores every state. Each `always` must hold everywhere, each `sometimes` somewhere (else the model proves nothing).
pub fn exhaust<M>(name: &str, sizes: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + 'static,
{
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let seconds = begun.elapsed().as_secs_f64();
    for (property, path) in checker.discoveries() {
        if checker.model().property(property).expectation.discovery_is_failure() {
            panic!("{name}: {property}:\n{}", steps(&path.into_actions()));
        }
    }
    checker.assert_properties();
    println!(
        "model {name}: {sizes}: exhausted, {} states ({} steps), {} deep, no violation, {seconds:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
    );
}

/// The model has a mistake built in: the checker must find the violation, and says how long the way to it is.
pub fn must_fail<M>(name: &str, mistake: &str, property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + 'static,
{
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let seconds = begun.elapsed().as_secs_f64();
    let Some(path) = checker.discovery(property) else {
        panic!("{name}: with {mistake}, \"{property}\" should not hold, and nothing was found");
    };
    let holds = checker.model().property(property).condition;
    let steps_to_it = path.into_vec().into_iter().take_while(|(state, _)| holds(checker.model(), state));
    let actions: Vec<_> = steps_to_it.filter_map(|(_, action)| action).collect();
    println!(
        "model {name}: {mistake}: found, {} steps, after {} states, {seconds:.1} s:\n{}",
        actions.len(),
        checker.unique_state_count(),
        steps(&actions),
    );
}

/// From every state that can be reached, whatever has gone wrong by then, one that is `good` can still be reached: nothing is
/// ever stuck. (The checker's own `eventually` does not see cycles, so this goes through the whole graph, backwards.)
pub fn can_always<M>(name: &str, what: &str, model: &M, good: impl Fn(&M::State) -> bool)
where
    M: Model,
    M::State: Clone + Debug + Eq + Hash,
{
    let begun = Instant::now();
    let (states, into) = graph(model);
    let mut reaches: Vec<bool> = states.iter().map(good).collect();
    let mut todo: Vec<usize> = (0..states.len()).filter(|at| reaches[*at]).collect();
    while let Some(at) = todo.pop() {
        for from in &into[at] {
            let from = *from as usize;
            if !std::mem::replace(&mut reaches[from], true) {
                todo.push(from);
            }
        }
    }
    let stuck = reaches.iter().position(|reaches| !reaches);
    assert!(stuck.is_none(), "{name}: {what} is out of reach from {:#?}", stuck.map(|at| &states[at]));
    let seconds = begun.elapsed().as_secs_f64();
    println!("model {name}: {what} is in reach of each of {} states, {seconds:.1} s", states.len());
}

/// Every state, and from where each is reached.
fn graph<M>(model: &M) -> (Vec<M::State>, Vec<Vec<u32>>)
where
    M: Model,
    M::State: Clone + Eq + Hash,
{
    let mut states = model.init_states();
    let mut known: HashMap<M::State, usize> = states.iter().cloned().zip(0..).collect();
    let mut into: Vec<Vec<u32>> = vec![Vec::new(); states.len()];
    let mut at = 0;
    while at < states.len() {
        for next in model.next_states(&states[at]) {
            let to = *known.entry(next).or_insert_with_key(|next| {
                states.push(next.clone());
                into.push(Vec::new());
                states.len() - 1
            });
            into[to].push(u32::try_from(at).expect("fewer states than that"));
        }
        at += 1;
    }
    (states, into)
}

fn steps<A: Debug>(actions: &[A]) -> String {
    let numbered = actions.iter().enumerate().map(|(at, action)| format!("  {:>3} {action:?}", at + 1));
    numbered.collect::<Vec<_>>().join("\n")
}

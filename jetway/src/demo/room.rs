//! Who is in the room and what was drawn, as plain decisions: no socket, no clock of its own.

use std::collections::{BTreeMap, VecDeque};

use axum::extract::ws::Utf8Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub const VISITORS_MAX: usize = 64;
/// Messages that may wait for one visitor; a visitor that is further behind is let go and comes back.
pub const QUEUE_MESSAGES: usize = 256;
/// Points of all strokes that newcomers get; beyond that the oldest strokes go.
const POINTS_MAX: usize = 20_000;
/// Points of one stroke: a line drawn for minutes.
const STROKE_POINTS_MAX: usize = 4_000;
const NAME_CHARS_MAX: usize = 24;
/// The drawing's own coordinates; each window scales them.
const WIDTH: u16 = 6400;
const HEIGHT: u16 = 3600;

const ANIMALS: [&str; 24] = [
    "Otter", "Heron", "Lynx", "Puffin", "Badger", "Gecko", "Marten", "Falcon", "Dolphin", "Hedgehog", "Ibex",
    "Kiwi", "Magpie", "Newt", "Octopus", "Panda", "Quokka", "Raven", "Seal", "Toucan", "Vole", "Walrus",
    "Yak", "Zebra",
];
/// Hues that differ from their neighbours and are legible on light and dark.
const COLOURS: [&str; 10] = [
    "#e8590c", "#1c7ed6", "#2f9e44", "#c2255c", "#7048e8", "#0c8599", "#b8860b", "#d6336c", "#5c940d",
    "#4263eb",
];

pub type Point = [u16; 2];

/// What a visitor says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Said {
    Move {
        at: Point,
    },
    /// The pointer left the drawing.
    Away,
    /// More points of the visitor's stroke of this number.
    Draw {
        stroke: u32,
        points: Vec<Point>,
    },
    Clear,
    Rename {
        name: String,
    },
}

/// What a visitor hears.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Heard<'a> {
    Welcome { you: u32, visitors: Vec<&'a Visitor>, strokes: &'a VecDeque<Stroke>, width: u16, height: u16 },
    Joined { visitor: &'a Visitor },
    Left { visitor: u32 },
    Renamed { visitor: u32, name: &'a str },
    Moved { visitor: u32, at: Point },
    Away { visitor: u32 },
    Drew { visitor: u32, stroke: u32, colour: &'a str, points: &'a [Point] },
    Cleared { visitor: u32 },
}

#[derive(Debug, Serialize)]
struct Visitor {
    id: u32,
    name: String,
    colour: &'static str,
    /// The name was given by whoever made the URL; it cannot be changed here.
    verified: bool,
    #[serde(skip)]
    queue: mpsc::Sender<Utf8Bytes>,
}

#[derive(Debug, Serialize)]
struct Stroke {
    visitor: u32,
    stroke: u32,
    colour: &'static str,
    points: Vec<Point>,
}

/// Nobody else fits in.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Default)]
pub struct Room {
    visitors: BTreeMap<u32, Visitor>,
    strokes: VecDeque<Stroke>,
    points: usize,
    entered: u32,
}

impl Room {
    /// Who it is now, and what it hears from now on; first of all the room as it is.
    pub fn enter(&mut self, verified: Option<String>) -> Result<(u32, mpsc::Receiver<Utf8Bytes>), Full> {
        if self.visitors.len() >= VISITORS_MAX {
            return Err(Full);
        }
        let number = self.entered;
        self.entered = self.entered.wrapping_add(1);
        let (queue, heard) = mpsc::channel(QUEUE_MESSAGES);
        let name = verified.as_deref().and_then(clean_name);
        let visitor = Visitor {
            id: number,
            verified: name.is_some(),
            name: name.unwrap_or_else(|| format!("{} {}", adjective(number), ANIMALS[animal(number)])),
            colour: COLOURS[number as usize % COLOURS.len()],
            queue,
        };
        self.tell_all_but(number, &Heard::Joined { visitor: &visitor });
        self.visitors.insert(number, visitor);
        let visitors = self.visitors.values().collect();
        let welcome =
            Heard::Welcome { you: number, visitors, strokes: &self.strokes, width: WIDTH, height: HEIGHT };
        let welcome = text(&welcome);
        if let Some(visitor) = self.visitors.get(&number) {
            let _queue_is_empty = visitor.queue.try_send(welcome);
        }
        Ok((number, heard))
    }

    pub fn leave(&mut self, visitor: u32) {
        if self.visitors.remove(&visitor).is_some() {
            self.tell_all_but(visitor, &Heard::Left { visitor });
        }
    }

    /// What one says the others hear. Points outside the drawing, and lines that are too long, are left out.
    pub fn say(&mut self, visitor: u32, said: Said) {
        let Some(colour) = self.visitors.get(&visitor).map(|visitor| visitor.colour) else { return };
        match said {
            Said::Move { at } if inside(&at) => self.tell_all_but(visitor, &Heard::Moved { visitor, at }),
            Said::Move { .. } => {}
            Said::Away => self.tell_all_but(visitor, &Heard::Away { visitor }),
            Said::Draw { stroke, mut points } => {
                points.retain(inside);
                if self.keep(visitor, stroke, colour, &points) {
                    self.tell_all_but(visitor, &Heard::Drew { visitor, stroke, colour, points: &points });
                }
            }
            Said::Clear => {
                self.strokes.clear();
                self.points = 0;
                self.tell_all_but(visitor, &Heard::Cleared { visitor });
            }
            Said::Rename { name } => self.rename(visitor, &name),
        }
    }

    fn rename(&mut self, id: u32, name: &str) {
        let Some(name) = clean_name(name) else { return };
        let Some(visitor) = self.visitors.get_mut(&id) else { return };
        if visitor.verified {
            return;
        }
        visitor.name.clone_from(&name);
        self.tell_all_but(u32::MAX, &Heard::Renamed { visitor: id, name: &name });
    }

    /// False: nothing of it was kept.
    fn keep(&mut self, visitor: u32, stroke: u32, colour: &'static str, points: &[Point]) -> bool {
        if points.is_empty() {
            return false;
        }
        let known =
            self.strokes.iter_mut().rev().find(|known| (known.visitor, known.stroke) == (visitor, stroke));
        match known {
            Some(known) if known.points.len() + points.len() > STROKE_POINTS_MAX => return false,
            Some(known) => known.points.extend_from_slice(points),
            None => self.strokes.push_back(Stroke { visitor, stroke, colour, points: points.to_vec() }),
        }
        self.points += points.len();
        while self.points > POINTS_MAX {
            let Some(oldest) = self.strokes.pop_front() else { break };
            self.points -= oldest.points.len();
        }
        true
    }

    /// Whoever cannot keep up is taken out: its queue closes, and its socket with it.
    fn tell_all_but(&mut self, speaker: u32, heard: &Heard<'_>) {
        let message = text(heard);
        let behind: Vec<u32> = self
            .visitors
            .values()
            .filter(|visitor| visitor.id != speaker && visitor.queue.try_send(message.clone()).is_err())
            .map(|visitor| visitor.id)
            .collect();
        for visitor in behind {
            self.leave(visitor);
        }
    }
}

fn text(heard: &Heard<'_>) -> Utf8Bytes {
    serde_json::to_string(heard).unwrap_or_default().into()
}

fn inside(point: &Point) -> bool {
    point[0] <= WIDTH && point[1] <= HEIGHT
}

fn animal(number: u32) -> usize {
    // A step that shares no factor with the list's length visits every animal before the first comes again.
    (number as usize * 7) % ANIMALS.len()
}

fn adjective(number: u32) -> &'static str {
    const ADJECTIVES: [&str; 7] = ["Quick", "Calm", "Bright", "Curious", "Gentle", "Bold", "Merry"];
    ADJECTIVES[(number as usize * 3 + number as usize / ANIMALS.len()) % ADJECTIVES.len()]
}

fn clean_name(name: &str) -> Option<String> {
    let name: String = name.chars().filter(|char| !char.is_control()).take(NAME_CHARS_MAX).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(heard: &mut mpsc::Receiver<Utf8Bytes>) -> Vec<serde_json::Value> {
        std::iter::from_fn(|| heard.try_recv().ok())
            .map(|text| serde_json::from_str(&text).unwrap())
            .collect()
    }

    #[test]
    fn visitors_hear_each_other_and_never_themselves() {
        let mut room = Room::default();
        let (a, mut a_hears) = room.enter(None).unwrap();
        let (b, mut b_hears) = room.enter(Some("Ada".into())).unwrap();
        room.say(b, Said::Move { at: [1, 2] });
        room.say(b, Said::Move { at: [WIDTH + 1, 2] });
        room.leave(b);
        let kinds: Vec<_> = drain(&mut a_hears).iter().map(|heard| heard["type"].clone()).collect();
        assert_eq!(kinds, ["welcome", "joined", "moved", "left"]);
        let heard = drain(&mut b_hears);
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0]["visitors"][1]["name"], "Ada");
        assert_ne!(a, b);
    }

    #[test]
    fn a_newcomer_gets_the_drawing_and_it_stays_bounded() {
        let mut room = Room::default();
        let (a, _heard) = room.enter(None).unwrap();
        for stroke in 0..30 {
            room.say(a, Said::Draw { stroke, points: vec![[1, 1]; 1000] });
        }
        assert_eq!((room.points, room.strokes.len()), (20_000, 20));
        for _ in 0..10 {
            room.say(a, Said::Draw { stroke: 99, points: vec![[2, 2]; 1000] });
        }
        assert_eq!(room.strokes.back().unwrap().points.len(), STROKE_POINTS_MAX);
        room.say(a, Said::Draw { stroke: 100, points: vec![[WIDTH + 1, 0]] });
        let (_b, mut heard) = room.enter(None).unwrap();
        let welcome = &drain(&mut heard)[0];
        assert_eq!(welcome["strokes"].as_array().unwrap().last().unwrap()["stroke"], 99);
        room.say(a, Said::Clear);
        assert_eq!((room.points, room.strokes.len()), (0, 0));
    }

    #[test]
    fn the_slow_and_the_many_are_turned_away() {
        let mut room = Room::default();
        let (_slow, mut slow_hears) = room.enter(None).unwrap();
        let (a, mut a_hears) = room.enter(None).unwrap();
        for _ in 0..=QUEUE_MESSAGES {
            room.say(a, Said::Move { at: [0, 0] });
        }
        assert_eq!(drain(&mut slow_hears).len(), QUEUE_MESSAGES);
        assert!(matches!(slow_hears.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert_eq!(drain(&mut a_hears).last().unwrap()["type"], "left");
        let mut others = Vec::new();
        while let Ok(entered) = room.enter(None) {
            others.push(entered);
        }
        assert_eq!(room.visitors.len(), VISITORS_MAX);
    }

    #[test]
    fn verified_names_stay_and_others_are_cleaned() {
        let mut room = Room::default();
        let (ada, _a) = room.enter(Some("Ada".into())).unwrap();
        let (guest, _b) = room.enter(Some(" \n ".into())).unwrap();
        room.say(ada, Said::Rename { name: "Eve".into() });
        room.say(guest, Said::Rename { name: format!("  {}\u{7}", "x".repeat(99)) });
        assert_eq!(room.visitors[&ada].name, "Ada");
        assert_eq!(room.visitors[&guest].name, "x".repeat(NAME_CHARS_MAX - 2));
    }
}

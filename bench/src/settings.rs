//! What is to be measured, and how often.

use anyhow::{Context, bail};

pub const USAGE: &str = "\
jetway-bench [--only part,part] [--rounds N]
  parts: hot parked sandbox cold   connect to first byte, by tier, against Docker and Plane
         sporadic                  the same, and connects to a live key, 1.5 s apart and after a silence
         live                      connects to a live key against Plane
         close                     last close to stop signal against Plane
         burst                     many new keys at once against Plane
         claims scale              new keys against simulated drones; with 1,000 drones and 100,000 sessions
         learned                   three minutes of a pool that was not declared
         edge                      the proxy against HAProxy, nginx and Plane
         idle                      memory of idle WebSockets, in proxies that are new
         crowd                     20,000 idle WebSockets, and 1,000 new ones a second";

/// In the order in which they are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Hot,
    Parked,
    Sandbox,
    Cold,
    Sporadic,
    Live,
    Close,
    Burst,
    Claims,
    Scale,
    Learned,
    Edge,
    Idle,
    Crowd,
}

impl Part {
    const ALL: [(Part, &str); 14] = [
        (Part::Hot, "hot"),
        (Part::Parked, "parked"),
        (Part::Sandbox, "sandbox"),
        (Part::Cold, "cold"),
        (Part::Sporadic, "sporadic"),
        (Part::Live, "live"),
        (Part::Close, "close"),
        (Part::Burst, "burst"),
        (Part::Claims, "claims"),
        (Part::Scale, "scale"),
        (Part::Learned, "learned"),
        (Part::Edge, "edge"),
        (Part::Idle, "idle"),
        (Part::Crowd, "crowd"),
    ];

    fn parse(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.iter().find(|(_, its)| *its == name);
        found.map(|(part, _)| *part).with_context(|| format!("{name:?} is no part\n{USAGE}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    only: Option<Vec<Part>>,
    /// Turns of everybody, where no part says otherwise.
    rounds: Option<usize>,
}

impl Settings {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut settings = Self { only: None, rounds: None };
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--only" => {
                    let only: anyhow::Result<Vec<_>> = value()?.split(',').map(Part::parse).collect();
                    settings.only = Some(only?);
                }
                "--rounds" => {
                    let rounds = value()?.parse().ok().filter(|rounds| (1..=1000).contains(rounds));
                    settings.rounds = Some(rounds.context("--rounds is a number from 1 to 1000")?);
                }
                _ => bail!("{flag:?} is no flag\n{USAGE}"),
            }
        }
        Ok(settings)
    }

    pub fn is_asked(&self, part: Part) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&part))
    }

    pub fn is_whole(&self) -> bool {
        self.only.is_none()
    }

    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Settings> {
        Settings::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn parts_and_rounds_can_be_chosen() {
        let all = parse("").unwrap();
        assert!(all.is_whole() && all.is_asked(Part::Learned) && all.rounds(3) == 3);
        let some = parse("--only parked,live --rounds 7").unwrap();
        assert!(some.is_asked(Part::Live) && !some.is_asked(Part::Hot) && !some.is_whole());
        assert_eq!(some.rounds(3), 7);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for bad in ["--only", "--only tepid", "--rounds 0", "--rounds x", "--fast", "parked"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

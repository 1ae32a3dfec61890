//! Does what a walk says, in one browser, for each person in a profile of their own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::hands;
use crate::harness::browser::{Browser, Window};
use crate::place::Place;
use crate::walk::{Act, Sight, Step, Walk};

/// The first person.
pub const ADA: &str = "ada";
/// For a page, which may be large, and for one try at it.
const SHOWN: Duration = Duration::from_secs(120);
const TRY: Duration = Duration::from_secs(6);

pub struct Person {
    pub name: String,
    pub profile: String,
    pub window: Option<Window>,
    pub backend: Option<String>,
    /// Of all URLs that this person had.
    pub secrets: Vec<String>,
    /// The application's address as the window showed it at first: what a bookmark has.
    pub bookmark: String,
    downloads: PathBuf,
}

pub struct Walker<'a> {
    pub browser: &'a mut Browser,
    pub place: Place<'a>,
    pub people: Vec<Person>,
    acting: usize,
    directory: &'a Path,
    pictures: Option<PathBuf>,
    /// A page is being loaded: it may be loaded again without harm.
    loading: bool,
}

impl<'a> Walker<'a> {
    pub fn new(browser: &'a mut Browser, place: Place<'a>, directory: &'a Path) -> Self {
        let pictures = std::env::var_os("JETWAY_TEST_SCREENSHOTS").map(PathBuf::from);
        Self { browser, place, people: Vec::new(), acting: 0, directory, pictures, loading: false }
    }

    pub async fn walk(&mut self, walk: &Walk) -> anyhow::Result<()> {
        self.enter(ADA).await?;
        for step in &walk.steps {
            // Without Jetway nothing ends, and nothing comes after it.
            if step.act == Act::Ended && self.place.session().is_none() {
                break;
            }
            let done = self.step(step).await;
            if done.is_err() {
                self.leave_picture_of_failure(&walk.name).await;
            }
            done.with_context(|| {
                format!("{}.walk:{}: {}\n{}", walk.name, step.line, step.text, self.troubles())
            })?;
        }
        Ok(())
    }

    /// What would explain a failed step.
    pub fn troubles(&self) -> String {
        let (changes, closed) = (self.browser.network_changes, self.browser.sockets_closed);
        let troubles = self.browser.troubles.join("\n  ");
        format!("{changes} breaks of the network, {closed} closed WebSockets, and\n  {troubles}")
    }

    async fn leave_picture_of_failure(&mut self, name: &str) {
        let Some(window) = self.people.get(self.acting).and_then(|person| person.window.as_ref()) else {
            return;
        };
        if let (Some(directory), Ok(picture)) = (&self.pictures, self.browser.screenshot(window).await) {
            let _left = std::fs::write(directory.join(format!("{name}-failed.png")), picture);
        }
    }

    /// A person gets a URL and opens it; a new person does so in a profile of their own.
    pub async fn enter(&mut self, name: &str) -> anyhow::Result<()> {
        match self.people.iter().position(|person| person.name == name) {
            Some(known) => self.acting = known,
            None => {
                let person = self.person(name).await?;
                self.people.push(person);
                self.acting = self.people.len() - 1;
            }
        }
        let way = self.place.way(name).await?;
        let window = hands::window(self.browser, &self.people[self.acting].profile).await?;
        let person = &mut self.people[self.acting];
        person.backend = way.backend;
        person.secrets.extend(way.secrets);
        self.browser.navigate(&window, &way.url).await?;
        person.window = Some(window);
        self.loading = true;
        Ok(())
    }

    async fn person(&mut self, name: &str) -> anyhow::Result<Person> {
        let profile = self.browser.new_profile().await?;
        let downloads = self.directory.join("downloads").join(name);
        hands::downloads_to(self.browser, &profile, &downloads).await?;
        if let Some(session) = self.place.session() {
            // The web app knows the person.
            let url = format!("{}/sign-in/{name}", session.webapp.origin());
            let window = hands::window(self.browser, &profile).await?;
            self.browser.navigate(&window, &url).await?;
            self.browser
                .until(&window, &format!("document.body?.innerText.includes('Hello, {name}')"))
                .await?;
            self.browser.close(window).await?;
        }
        let (backend, secrets, bookmark) = (None, Vec::new(), String::new());
        Ok(Person { name: name.to_owned(), profile, window: None, backend, secrets, bookmark, downloads })
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match &step.act {
            Act::As(name) => return self.turn_to(name).await,
            Act::Leave => return self.leave().await,
            Act::Ended => return self.end_session().await,
            Act::Bookmark => return self.open_bookmark().await,
            Act::Inside(command) => {
                return self.place.inside(self.people[self.acting].backend.as_deref(), command).await;
            }
            Act::Pause(seconds) => {
                tokio::time::sleep(Duration::from_secs(u64::from(*seconds))).await;
                return Ok(());
            }
            Act::Downloaded(text) => {
                let found = hands::downloaded(&self.people[self.acting].downloads).await?;
                ensure!(found.contains(text), "the file says {found:?}");
                return Ok(());
            }
            _ => {}
        }
        let person = self.people.get(self.acting).context("a person")?;
        let window = person.window.as_ref().context("a window")?;
        let browser = &mut *self.browser;
        match &step.act {
            Act::See(sight) => return self.see(sight).await,
            Act::Gone(sight) => browser.until(window, &format!("!({})", hands::is_seen(sight))).await?,
            // Without Jetway there are no names.
            Act::Me(_) if !self.place.session().is_some_and(|session| session.tells_names()) => {}
            Act::Me(sight) => {
                let text = Some(person.name.clone());
                let named = Sight { selector: sight.selector.clone(), text };
                browser.until(window, &hands::is_seen(&named)).await?;
            }
            Act::Click(sight) => hands::click(browser, window, sight).await?,
            Act::Type(text) => hands::type_text(browser, window, text).await?,
            Act::Paste(text) => hands::paste(browser, window, text).await?,
            Act::Press(keys) => hands::press(browser, window, keys).await?,
            Act::Until(script) => browser.until(window, script).await?,
            Act::Do(script) => drop(browser.evaluate(window, script).await?),
            Act::Reload => hands::hard_reload(browser, window).await?,
            Act::Back => hands::step_in_history(browser, window, true).await?,
            Act::Forward => hands::step_in_history(browser, window, false).await?,
            Act::Go(path) => {
                let url = browser
                    .evaluate(window, &format!("new URL({}, location.href).href", json!(path)))
                    .await?;
                browser.navigate(window, url.as_str().context("an address")?).await?;
            }
            Act::Phone => hands::phone(browser, window).await?,
            Act::Resize(width, height) => browser.resize(window, *width, *height).await?,
            Act::Upload { field, name, text } => {
                let file = self.directory.join(name);
                std::fs::write(&file, text.replace("\\n", "\n"))?;
                hands::upload(browser, window, field, &file).await?;
            }
            Act::Picture(name) => {
                if let Some(directory) = &self.pictures {
                    std::fs::create_dir_all(directory)?;
                    std::fs::write(directory.join(format!("{name}.png")), browser.screenshot(window).await?)?;
                }
            }
            Act::As(_)
            | Act::Leave
            | Act::Ended
            | Act::Bookmark
            | Act::Inside(_)
            | Act::Pause(_)
            | Act::Downloaded(_) => {}
        }
        self.loading |= matches!(step.act, Act::Reload | Act::Back | Act::Forward | Act::Go(_));
        Ok(())
    }

    /// Waits for a sight. Chromium gives a request up when this machine gets an interface meanwhile, as it does with a container:
    /// then, and only while a page is being loaded, the page is loaded again.
    pub async fn see(&mut self, sight: &Sight) -> anyhow::Result<()> {
        let person = self.people.get_mut(self.acting).context("a person")?;
        let window = person.window.as_ref().context("a window")?;
        let (start, mut changes) = (Instant::now(), self.browser.network_changes);
        let expression = hands::is_seen(sight);
        if !self.loading {
            return self.browser.until(window, &expression).await;
        }
        loop {
            match self.browser.until_within(TRY, window, &expression).await {
                Ok(()) => break,
                Err(error) if start.elapsed() > SHOWN => return Err(error),
                Err(_) if self.browser.network_changes > changes => {
                    changes = self.browser.network_changes;
                    self.browser.reload(window).await?;
                }
                Err(_) => {}
            }
        }
        self.loading = false;
        if person.bookmark.is_empty() {
            let address = self.browser.evaluate(window, "location.href").await?;
            person.bookmark = address.as_str().context("an address")?.to_owned();
        }
        Ok(())
    }

    async fn turn_to(&mut self, name: &str) -> anyhow::Result<()> {
        match self.people.iter().position(|person| person.name == name && person.window.is_some()) {
            Some(known) => self.acting = known,
            None => self.enter(name).await?,
        }
        let window = self.people[self.acting].window.as_ref().context("a window")?;
        self.browser.call(Some(&window.session), "Page.bringToFront", json!({})).await.map(drop)
    }

    async fn leave(&mut self) -> anyhow::Result<()> {
        let window = self.people[self.acting].window.take().context("a window")?;
        self.browser.close(window).await
    }

    pub async fn leave_all(&mut self) -> anyhow::Result<()> {
        for person in &mut self.people {
            if let Some(window) = person.window.take() {
                self.browser.close(window).await?;
            }
        }
        Ok(())
    }

    pub async fn end_session(&mut self) -> anyhow::Result<()> {
        self.leave_all().await?;
        let session = self.place.session().context("without Jetway nothing ends")?;
        let backend = self.people[self.acting].backend.as_deref().context("a session")?;
        session.until_ended(backend).await
    }

    async fn open_bookmark(&mut self) -> anyhow::Result<()> {
        let person = &mut self.people[self.acting];
        let window = hands::window(self.browser, &person.profile).await?;
        self.browser.navigate(&window, &person.bookmark).await?;
        person.window = Some(window);
        self.loading = true;
        Ok(())
    }
}

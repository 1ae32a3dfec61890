//! `/.jetway/` on a session's host: the way in for browsers, and out. An entering token becomes the
//! cookie, and the next request shows whether the browser keeps it. Where another user is in, the
//! person is asked first: else any page could make them work in a stranger's name.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Method, Request, Response};
use jetway_protocol::attach::PAGE_AFTER;
use jetway_protocol::host::{COOKIE, RESERVED};
use jetway_protocol::token::{HostToken, HostUse, TokenContent, UserTag};

use crate::forward::response_body::ResponseBody;
use crate::headers::guard;
use crate::headers::own_cookie::{self, PENDING};
use crate::owners::Owner;
use crate::pages::{answer, entry};
use crate::problem::Problem;
use crate::request::admitted::unexpired;
use crate::request::ambient::{Ambient, Page, origin_of_url};
use crate::request::credentials;
use crate::request::on_host::{Visit, Visitor, Wanted, own_origin};
use crate::request::return_url::{Back, Reason};
use crate::request::server::{Arrived, Server};
use crate::route::wanted::{WantedPath, parameter};

/// One request below `/.jetway/`.
struct Entering<'a, B> {
    visit: &'a Visit,
    arrived: &'a Arrived<'a>,
    request: &'a Request<B>,
    ambient: Ambient<'a>,
    path: WantedPath,
}

/// An entering token that does not let in.
struct NotOpened {
    problem: Problem,
    /// Whose it was.
    user: Option<UserTag>,
}

/// What becomes of an entering token beside the cookie that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Sets,
    /// The same user is in already, at a newer run.
    Keeps,
    /// The other user's run is over.
    SetsUnlessStrange,
    /// Whether the other user may still enter is the drone's to say.
    AsksTheDrone,
}

fn decide(token: &HostToken, old: Option<&HostToken>) -> Decision {
    let Some(old) = old else { return Decision::Sets };
    let (new_run, old_run) = (token.content.fencing_token, old.content.fencing_token);
    match (old.user == token.user, old_run) {
        (true, old_run) if old_run > new_run => Decision::Keeps,
        (true, _) => Decision::Sets,
        (false, old_run) if old_run < new_run => Decision::SetsUnlessStrange,
        (false, _) => Decision::AsksTheDrone,
    }
}

impl Server {
    pub async fn reserved<B>(
        &self,
        visit: &Visit,
        arrived: &Arrived<'_>,
        request: &Request<B>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let ambient = Ambient::of(request.method(), false, request.headers());
        let path = WantedPath::in_query(request.uri().query());
        let name = request.uri().path().strip_prefix(RESERVED).unwrap_or_default();
        let entering = Entering { visit, arrived, request, ambient, path };
        match (name, request.method()) {
            ("enter" | "entered" | "confirm", &Method::GET) if !ambient.may_navigate() => {
                Err(Problem::OtherOrigin)
            }
            ("enter", &Method::GET) => self.enter(&entering).await,
            ("entered", &Method::GET) => self.entered(&entering).await,
            ("confirm", &Method::GET) => self.confirm(&entering).await,
            ("confirm", &Method::POST) => self.confirmed(&entering).await,
            ("leave", &Method::POST) => self.leave(&entering),
            _ => Err(Problem::NoRoute),
        }
    }

    async fn enter<B>(&self, entering: &Entering<'_, B>) -> Result<Response<ResponseBody>, Problem> {
        let text = parameter(entering.request.uri().query(), "token");
        let token = match entering.opened(text) {
            Ok(token) => token,
            Err(not) => return self.not_entered(entering, not).await,
        };
        let old = entering.cookie();
        let may_set = match decide(&token, old.as_deref()) {
            // In a frame that its visitor may never see, another page could choose the user.
            Decision::Sets if old.is_none() && entering.ambient.is_frame() => {
                !self.is_strange(entering, &token).await
            }
            Decision::Sets => true,
            Decision::Keeps => return entering.on_to("entered", &[]),
            Decision::SetsUnlessStrange => !self.is_strange(entering, &token).await,
            Decision::AsksTheDrone => {
                let content = old.as_ref().map_or(&token.content, |old| &old.content);
                // It does not answer: the other user may be in.
                let is_over = self.known_entry(content, Some(PAGE_AFTER)).await.is_err();
                is_over && !self.is_strange(entering, &token).await
            }
        };
        if may_set {
            return entering.let_in(token, &[]);
        }
        entering.on_to("confirm", &[own_cookie::pending(text.unwrap_or_default())])
    }

    /// Whether a page that is none of the web app's has led here.
    async fn is_strange<B>(&self, entering: &Entering<'_, B>, token: &HostToken) -> bool {
        if !entering.ambient.is_from_elsewhere() {
            return false;
        }
        let Some(from) = entering.ambient.referrer() else { return true };
        let is_from = |origin: &str| from.eq_ignore_ascii_case(origin.as_bytes());
        let asker = Visitor::of(entering.arrived, entering.request).asker;
        if let Owner::Owned(owner) = self.owners.of(&entering.visit.site.base, asker).await
            && owner.return_url.as_deref().and_then(origin_of_url).is_some_and(|origin| is_from(&origin))
        {
            return false;
        }
        let known = self.known_entry(&token.content, None).await;
        !known.is_ok_and(|entry| {
            entry.is_some_and(|entry| entry.allowed_origins.iter().any(|one| is_from(one)))
        })
    }

    /// An entering URL of an earlier day is a bookmark: its user goes on, if the cookie is there;
    /// others go back.
    async fn not_entered<B>(
        &self,
        entering: &Entering<'_, B>,
        NotOpened { problem, user }: NotOpened,
    ) -> Result<Response<ResponseBody>, Problem> {
        let is_in = |cookie: Arc<HostToken>| user.is_none_or(|user| user == cookie.user);
        if entering.cookie().is_some_and(is_in) {
            return entering.on_to("entered", &[]);
        }
        self.turned_away(entering.visit, &entering.visitor(), problem).await
    }

    async fn entered<B>(&self, entering: &Entering<'_, B>) -> Result<Response<ResponseBody>, Problem> {
        if entering.cookie().is_some() {
            let own = own_origin(entering.arrived, entering.request.headers());
            return see_other(&own.url(entering.path.as_str()), &[]);
        }
        if !entering.arrived.for_a_person {
            return Err(Problem::NoSession);
        }
        let asker = entering.visitor().asker;
        let back = self.way_back(entering.visit, asker, Reason::Blocked, &entering.path).await;
        let own = own_origin(entering.arrived, entering.request.headers()).url(entering.path.as_str());
        let link = match &back {
            Back::To(location) => location.to_str().unwrap_or(&own),
            Back::Nowhere | Back::Unknown => &own,
        };
        Ok(entry::blocked(link, &self.brand))
    }

    async fn confirm<B>(&self, entering: &Entering<'_, B>) -> Result<Response<ResponseBody>, Problem> {
        let token = match entering.pending() {
            Ok(token) => token,
            Err(not) => return self.not_entered(entering, not).await,
        };
        let known = self.known_entry(&token.content, Some(PAGE_AFTER)).await.unwrap_or_default();
        let ancestors = known.map(|entry| guard::ancestors(&entry.allowed_origins));
        let stay = own_origin(entering.arrived, entering.request.headers()).url(entering.path.as_str());
        Ok(entry::confirm(&entering.path, &stay, ancestors, &self.brand))
    }

    async fn confirmed<B>(&self, entering: &Entering<'_, B>) -> Result<Response<ResponseBody>, Problem> {
        entering.must_be_own()?;
        match entering.pending() {
            Ok(token) => entering.let_in(token, &own_cookie::deleted(PENDING)),
            Err(not) => self.not_entered(entering, not).await,
        }
    }

    fn leave<B>(&self, entering: &Entering<'_, B>) -> Result<Response<ResponseBody>, Problem> {
        entering.must_be_own()?;
        let cookies = [own_cookie::deleted(COOKIE), own_cookie::deleted(PENDING)].concat();
        let is_a_page = answer::wants_page(&Method::GET, entering.request.headers());
        Ok(entry::left(&cookies, is_a_page.then_some(&*self.brand)))
    }
}

impl<B> Entering<'_, B> {
    fn cookie(&self) -> Option<Arc<HostToken>> {
        let Visit { installation, site } = self.visit;
        credentials::cookie(self.arrived.connection, installation, site, self.request.headers())
    }

    /// The token that waits for its person's word.
    fn pending(&self) -> Result<HostToken, NotOpened> {
        self.opened(own_cookie::values(self.request.headers(), PENDING).next())
    }

    fn opened(&self, text: Option<&str>) -> Result<HostToken, NotOpened> {
        let Visit { installation, site } = self.visit;
        let token = credentials::entering(installation, site, text);
        let token = token.ok_or(NotOpened { problem: Problem::NoSession, user: None })?;
        match unexpired(&token.content) {
            Ok(()) => Ok(token),
            Err(problem) => Err(NotOpened { problem, user: Some(token.user) }),
        }
    }

    fn visitor(&self) -> Visitor {
        Visitor { wanted: Wanted::Told(self.path.clone()), ..Visitor::of(self.arrived, self.request) }
    }

    /// Forms of the session's own pages and of ours, and no other's.
    fn must_be_own(&self) -> Result<(), Problem> {
        let own = own_origin(self.arrived, self.request.headers());
        if self.ambient.page(Some(&own)) == Page::Own { Ok(()) } else { Err(Problem::OtherOrigin) }
    }

    /// A cookie ends with its session.
    fn let_in(&self, token: HostToken, more: &[String]) -> Result<Response<ResponseBody>, Problem> {
        let Visit { installation, site } = self.visit;
        let token = HostToken { content: TokenContent { expires_at: None, ..token.content }, ..token };
        let cookie = installation.sealer.seal_on(HostUse::Cookie, &site.base, &token);
        self.on_to("entered", &[&own_cookie::entered(&cookie)[..], more].concat())
    }

    fn on_to(&self, name: &str, cookies: &[String]) -> Result<Response<ResponseBody>, Problem> {
        let own = own_origin(self.arrived, self.request.headers());
        see_other(&own.url(&format!("{RESERVED}{name}?path={}", self.path.encoded())), cookies)
    }
}

fn see_other(location: &str, cookies: &[String]) -> Result<Response<ResponseBody>, Problem> {
    let location = HeaderValue::try_from(location);
    let location = location.map_err(|_| Problem::BadRequest("the host cannot be written as a header"))?;
    Ok(entry::see_other(&location, cookies))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{BackendId, DroneId, FencingToken, GrantId, InstallationId};
    use jetway_protocol::secret::Secret;
    use jetway_protocol::token::TokenSealer;

    use super::*;

    #[test]
    fn another_user_is_asked_about_before_he_goes() {
        let secret = Secret::new(&"jetway".repeat(8)).unwrap();
        let sealer = TokenSealer::new(&secret, InstallationId::random());
        let of = |user: &str, run| {
            let content = TokenContent {
                backend: BackendId::random(),
                fencing_token: FencingToken(run),
                drone: DroneId::random(),
                drone_address: "a:1".to_owned(),
                grant: GrantId(1),
                expires_at: None,
            };
            HostToken { content, user: sealer.user_tag(Some(user)) }
        };
        let token = of("ada", 7);
        for (old, expect) in [
            (None, Decision::Sets),
            (Some(of("ada", 6)), Decision::Sets),
            (Some(of("ada", 7)), Decision::Sets),
            (Some(of("ada", 8)), Decision::Keeps),
            (Some(of("bob", 6)), Decision::SetsUnlessStrange),
            (Some(of("bob", 7)), Decision::AsksTheDrone),
            (Some(of("bob", 8)), Decision::AsksTheDrone),
        ] {
            assert_eq!(decide(&token, old.as_ref()), expect, "{old:?}");
        }
    }
}

//! The pages that a person sees: a session that starts, and a URL that leads nowhere (those on the
//! way in are in `entry`).
//! Self-contained, in plain words, without the token.

use std::sync::LazyLock;

use http::StatusCode;

/// The type that the waiting page accepts when it asks how far the start is. The proxy alone
/// answers requests for this type; no application sees one.
pub const STAGE_TYPE: &str = "application/vnd.jetway.stage+json";

/// The sources that pages may load (CSP): none.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The same for a page that has one script, and asks how far it is.
pub fn policy_with(nonce: &str) -> String {
    format!("{POLICY}; script-src 'nonce-{nonce}'; connect-src 'self'")
}

/// `message` and `id` may hold anything; both are escaped. `brand` is the operator's, and is not.
pub fn render(status: StatusCode, message: &str, retry: bool, id: &str, brand: &str) -> String {
    let (title, advice) = match status {
        StatusCode::GONE => {
            ("This link leads nowhere any more", "Go back to where you found it and open it again.")
        }
        StatusCode::NOT_FOUND => ("Nothing is there", "Go back to where you found it and open it again."),
        StatusCode::FORBIDDEN => {
            ("This link belongs to another address", "Go back to where you found it and open it again.")
        }
        _ if retry => ("Not there yet", "Reload this page in a moment."),
        _ => (
            "This did not work",
            "Go back and try again. If it stays like this, tell whoever runs this site.",
        ),
    };
    let message = escape(&sentence(message));
    let (id, status) = (escape(id), status.as_u16());
    let body = format!(
        "<h1>{title}</h1><p>{message}</p><p>{advice}</p><p class=\"small\">Error {status}, number {id}</p>"
    );
    whole(title, Referrer::None, "", brand, &body)
}

/// Shown while a session starts: it follows the start, and enters by itself.
pub fn waiting(brand: &str, nonce: &str) -> String {
    // The script comes last: nothing is looked for in it.
    let body = WAITING.replace("{nonce}", nonce).replace("{script}", SCRIPT.trim_end());
    whole("Starting", Referrer::None, REFRESH, brand, &body)
}

/// What a page's own requests say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referrer {
    None,
    /// What the answer's `Referrer-Policy` says: a form's request needs an origin.
    Origin,
}

pub fn whole(title: &str, referrer: Referrer, head: &str, brand: &str, body: &str) -> String {
    let style = &*STYLE;
    let referrer = if referrer == Referrer::None { NO_REFERRER } else { "" };
    format!(
        include_str!("frame.html"),
        title = title,
        style = style,
        head = head,
        brand = brand,
        body = body,
        referrer = referrer
    )
}

/// A file whose line ends are for its readers alone.
fn joined(text: &str) -> String {
    text.lines().map(str::trim).collect()
}

static STYLE: LazyLock<String> = LazyLock::new(|| joined(include_str!("style.css")));
static WAITING: LazyLock<String> = LazyLock::new(|| joined(include_str!("waiting.html")));
pub static BLOCKED: LazyLock<String> = LazyLock::new(|| joined(include_str!("blocked.html")));
pub static CONFIRM: LazyLock<String> = LazyLock::new(|| joined(include_str!("confirm.html")));
pub static LEFT: LazyLock<String> = LazyLock::new(|| joined(include_str!("left.html")));

const NO_REFERRER: &str = r#"<meta name="referrer" content="no-referrer">"#;

/// For a browser without scripts.
const REFRESH: &str = r#"<noscript><meta http-equiv="refresh" content="3"></noscript>"#;

/// Asks how far the start is, each time as soon as there is something new, and loads the page again
/// when it is over. Words that come from elsewhere are set as text.
const SCRIPT: &str = include_str!("waiting.js");

/// A fragment as a sentence: a capital first, a full stop last.
fn sentence(fragment: &str) -> String {
    let mut chars = fragment.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text() {
        let page = render(StatusCode::GONE, "ended (<script>&\"x\")", false, "1<2", "<b>brand</b>");
        assert!(page.contains("Ended (&lt;script&gt;&amp;&quot;x&quot;)."), "{page}");
        assert!(page.contains("number 1&lt;2") && page.contains("<main><b>brand</b><h1>"));
        assert!(page.contains("prefers-color-scheme:dark"));
        assert!(!page.contains("http:") && !page.contains("https:"), "nothing is loaded from elsewhere");
    }

    #[test]
    fn a_waiting_page_has_one_script_that_its_policy_knows() {
        let page = waiting("", "n0nce");
        assert_eq!(
            (page.matches("<script").count(), page.matches("<script nonce=\"n0nce\">").count()),
            (1, 1)
        );
        assert!(policy_with("n0nce").contains("script-src 'nonce-n0nce'"));
        assert!(!page.contains("src=") && !page.contains("href="), "nothing is loaded from elsewhere");
    }
}
